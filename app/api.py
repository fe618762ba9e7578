"""The app's seven endpoints, for `gradio_client` and plain HTTP: the views without the pages.

`add_endpoints` registers them on the `gr.Blocks` that is being built. They answer JSON; a user's
mistake comes back as an error of one sentence. Gradio does not check types, the service does.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from app.service import Service

INDEX, ANALYSE, GENERATE, CHECK = "index", "analyse", "generate", "check"
"""Concurrency ids, for pages and endpoints alike: reading an index, one forward, a steering run,
waiting for a check.

Analyses and generations are one at a time each, and interleave forward by forward.
"""

LIMITS: dict[str, int] = {INDEX: 8, ANALYSE: 1, GENERATE: 1, CHECK: 4}
"""How many requests of each kind run at once; the others wait in the queue."""


def add_endpoints(service: Service) -> None:
    """Register `/feature`, `/search_features`, `/prompt_features`, `/delta_loss`, `/steer`,
    `/check` and `/reproduce`."""
    settings = service.settings
    rows = settings.max_rows
    new_tokens = min(60, settings.max_new_tokens)

    def feature(feature: int, sae: str = "") -> dict[str, Any]:
        """All that the index, or weights and model without one, know about a feature of an SAE.

        Parameters:
            feature: Number of the feature, from 0.
            sae: Name of the SAE; empty is the bundle's first.
        Returns:
            Frequency, largest activation, threshold, histograms, contexts, logits, tokens, sources
            and neighbours.
        """
        return service.feature(sae, feature)

    def search_features(
        query: str = "",
        sae: str = "",
        sort: str = "",
        descending: bool = True,
        min_frequency: float = 0.0,
        max_frequency: float = 1.0,
        limit: int = min(50, rows),
        offset: int = 0,
    ) -> dict[str, Any]:
        """Features whose number, tokens or signature match a query.

        Parameters:
            query: A number such as 12 or #12, or text to find in tokens and signatures.
            sae: Name of the SAE; empty is the bundle's first.
            sort: Number to sort by, such as frequency or max_act; empty is frequency, and the id
                where the SAE has no index.
            descending: Whether the largest come first.
            min_frequency: Lowest share of tokens on which a feature is active, 0 to 1.
            max_frequency: Highest such share.
            limit: Most features to return.
            offset: Features to skip.
        Returns:
            total, and features with number, signature, frequency, max_act, mean_act, threshold.
        """
        return service.search_features(
            sae, query, sort, descending, min_frequency, max_frequency, limit, offset
        )

    def prompt_features(
        text: str = "",
        sae: str = "",
        limit: int = rows,
        messages: list[dict] | None = None,
    ) -> dict[str, Any]:
        """What fires on a text, and each token's loss without and with the SAE spliced in.

        Parameters:
            text: The text; it gets a BOS token if the tokenizer has one.
            sae: Name of the SAE; empty is the bundle's first.
            limit: Most features to list, by falling peak; tokens list all of theirs.
            messages: A conversation instead of a text, if the model has a chat template: objects
                with role (user, model, system) and content.
        Returns:
            tokens, totals (l0, fvu, ce_base, ce_spliced, delta_lm_loss, kl), features, definitions.
        """
        return service.prompt_features(text, sae, limit, messages)

    def delta_loss(
        text: str = "", sae: str = "", messages: list[dict] | None = None
    ) -> dict[str, Any]:
        """What splicing the SAE in costs the language model on a text, in all and per token.

        Parameters:
            text: The text; it gets a BOS token if the tokenizer has one.
            sae: Name of the SAE; empty is the bundle's first.
            messages: A conversation instead of a text, as in /prompt_features.
        Returns:
            tokens with loss, spliced_loss, delta and kl; totals; definitions.
        """
        return service.delta_loss(text, sae, messages)

    def steer(
        prompt: str = "",
        edits: list[dict] | None = None,
        sae: str = "",
        max_new_tokens: int = new_tokens,
        temperature: float = 0.8,
        seed: int = 0,
        messages: list[dict] | None = None,
    ) -> dict[str, Any]:
        """Continue a prompt as it is and with features edited, same seed and sampler.

        Parameters:
            prompt: Text to continue.
            edits: Objects with feature, mode (set, scale, add, ablate, cap), strength in multiples
                of the feature's largest activation (a factor for scale) or value in the
                activation's own units, and positions (all, prompt, generated or a list of token
                numbers); optionally sae.
            sae: Name of the SAE of edits that name none; empty is the bundle's first.
            max_new_tokens: Tokens to generate.
            temperature: Sampling temperature; 0 is greedy.
            seed: Seed of both continuations.
            messages: A conversation instead of a prompt, as in /prompt_features: the model answers
                its last message, a user's.
        Returns:
            base and steered tokens with the edited features' activations, the edits in raw units,
            and the settings that repeat the run.
        """
        return service.steer(prompt, edits, sae, max_new_tokens, temperature, seed, messages)

    def check(sae: str = "") -> dict[str, Any]:
        """Whether an SAE's numbers can be trusted: its L0 and FVU beside the declared ones.

        Parameters:
            sae: Name of the SAE; empty is the bundle's first.
        Returns:
            state (green, amber, red; failed, or off where checks are switched off), sentence, and
            check: verdict, l0, fvu, declared_l0, declared_fvu, tokens, reading and the readings
            tried.
        """
        return service.check(sae)

    def reproduce(asked: dict) -> dict[str, Any]:
        """What a number was computed from, and a script that prints it without the app.

        Parameters:
            asked: Which number: quantity, sae, text or messages, token, feature; or settings of a
                steering run with arm, step, edit, when; or sae, feature, group, context.
        Returns:
            value, model, dtype, device, attention, saes with source, content_hash and site,
            token_ids and script.
        """
        return service.reproduce(asked)

    for endpoint, group in (
        (feature, INDEX),
        (search_features, INDEX),
        (prompt_features, ANALYSE),
        (delta_loss, ANALYSE),
        (steer, GENERATE),
        (check, CHECK),
        (reproduce, ANALYSE),
    ):
        gr.api(  # pyright: ignore[reportPrivateImportUsage] - public, but not in __all__
            one_sentence(endpoint),
            api_name=endpoint.__name__,
            concurrency_id=group,
            concurrency_limit=LIMITS[group],
        )


def one_sentence(handler: Callable[..., Any]) -> Callable[..., Any]:
    """`handler` with a user's mistake (ValueError) shown as what it says, without a traceback."""

    @wraps(handler)
    def handled(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return handled
