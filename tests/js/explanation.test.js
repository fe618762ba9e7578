// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";

import { costWords } from "../../app/web/js/explanation.js";

test("the cost names who is sent what, and how much", () => {
  const cost = { requests: 15, tokens_in: 3210, tokens_out: 456 };
  const words = costWords({ host: "127.0.0.1:8000", model: "rule", cost });
  assert.match(words, /^rule at 127\.0\.0\.1:8000 is sent contexts/);
  assert.match(words, /15 requests, about 3,210 tokens sent and 456 answered\.$/);
});
