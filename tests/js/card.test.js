import assert from "node:assert/strict";
import { test } from "node:test";

import { exact, factsOf, wordsOf } from "../../app/web/js/card.js";

const CARD = {
  quantity: "activation",
  value: 1.25,
  feature: 3,
  token: 7,
  model: "google/gemma-2-2b@abc",
  dtype: "bfloat16",
  device: "cuda",
  attention: "eager",
  saes: [
    {
      name: "first",
      source: "google/gemma-scope-2b-pt-res/layer_4@def",
      content_hash: "0123",
      site: "resid_post/4",
      site_out: null,
    },
  ],
  token_ids: [2, 5, 7],
  script: "print(1)\n",
};
const RUN = {
  ...CARD,
  quantity: "activation after the edit",
  arm: "steered",
  temperature: 0.8,
  seed: 0,
  edits: [
    { feature: 3, mode: "set", value: 12.3456789, positions: "all", sae: "first" },
    { feature: 4, mode: "ablate", value: 0, positions: [1, 2], sae: "first" },
  ],
};
const CONTEXT = {
  ...CARD,
  token_ids: null,
  document: 1234,
  title: "A book",
  source: "",
  row: 2,
  context_size: 1024,
  within: 0.00012345,
};

/** @param {any} card */
const pairs = (card) => factsOf(card).map(({ name, words }) => [name, words]);

test("a value has eight digits, and one that is not defined says so", () => {
  assert.equal(exact(0.123456789), "0.12345679");
  assert.equal(exact(12), "12");
  assert.equal(exact(null), "not defined");
});

test("it says what the number is", () => {
  assert.equal(wordsOf(CARD), "activation of feature #3 on token 7");
  assert.equal(wordsOf(RUN), "activation of feature #3 on token 7, after the edit");
  assert.equal(wordsOf({ quantity: "fvu" }), "variance unexplained (FVU)");
  const quantities = ["loss", "spliced_loss", "delta", "kl", "pre-activation"];
  for (const quantity of quantities) assert.match(wordsOf({ ...CARD, quantity }), /token 7/);
});

test("a text's number names model, SAE, token ids and arithmetic", () => {
  assert.deepEqual(pairs(CARD), [
    ["model", "google/gemma-2-2b"],
    ["revision", "abc"],
    ["SAE", "google/gemma-scope-2b-pt-res/layer_4"],
    ["revision", "def"],
    ["SHA-256 of weights", "0123"],
    ["site", "resid_post/4"],
    ["token ids (3)", "2, 5, 7"],
    ["dtype", "bfloat16, the SAE's own arithmetic float32"],
    ["computed on", "cuda, attention eager"],
  ]);
});

test("what is not known is left out, and a transcoder has two sites", () => {
  const [sae] = CARD.saes;
  const saes = [{ ...sae, content_hash: "", source: "saes/first", site_out: "mlp_out/4" }];
  const facts = Object.fromEntries(pairs({ ...CARD, model: "model", saes }));
  assert.equal(facts.site, "resid_post/4 → mlp_out/4");
  assert.ok(!("revision" in facts) && !("SHA-256 of weights" in facts));
});

test("a run's number names its edits and how was sampled", () => {
  const facts = Object.fromEntries(pairs(RUN));
  assert.equal(facts.continuation, "steered");
  assert.equal(facts.edits, "#3 set 12.3457 on all tokens; #4 ablate on tokens 1, 2");
  assert.equal(facts.sampling, "temperature 0.8, seed 0");
});

test("a context's number names its place in the corpus and how exactly it is stored", () => {
  const facts = Object.fromEntries(pairs(CONTEXT));
  assert.equal(facts.document, "number 1,234 of the corpus · A book");
  assert.equal(facts.row, "2 of its tokens, 1,024 to a row, counted from 0");
  assert.equal(facts["stored to"], "± 0.00012");
  assert.ok(!Object.keys(facts).some((name) => name.startsWith("token ids")));
});
