"""What differs between architectures in training, as data: `RECIPES`."""

from dataclasses import dataclass
from math import inf

from sae_core.config import Architecture


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How parameters are updated."""

    beta1: float = 0.0
    """Adam's; 0 keeps no first moment."""
    vector_rate: float = 1.0
    """Learning rate of vectors (biases, thresholds) but b_dec, as a share of that of matrices."""
    b_dec_rate: float = 1.0
    """Learning rate of b_dec, as a share of that of matrices."""
    revive: float = 0.0
    """Share of its threshold, times the threshold's learning rate, that a dead feature loses."""
    dead_tokens: float = inf
    """Tokens without activity after which a feature is dead for `revive`."""
    unit_norm: bool = True
    """Whether decoder rows are held at norm 1."""
    clip: float | None = None
    """Norm to which the gradient of all parameters together is cut; None: never."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How an architecture is trained, as its source says."""

    lr: float
    """Learning rate where none is given; published for billions of tokens."""
    rule: Rule
    biases: tuple[str, ...]
    """Its vectors of d_sae beside the decoder's; they start at 0."""
    starts_at_mean: bool = False
    """Whether b_dec starts at the activations' mean, and not at 0."""
    opener: str | None = None
    """The vector that a fitted start sets: the threshold, or the bias that is minus one."""
    shrinks: bool = False
    """Whether an activation is what is above the threshold, and not the whole."""
    first_lambda: float | None = None
    """Where lambda starts when it is steered to an L0; None: targets have another penalty."""
    has_lambda: bool = True
    """Whether sparsity can be set by lambda; otherwise L0 targets are the number of features k."""
    free_decoder: bool = True
    """Whether it can be trained without holding decoder rows at norm 1."""


RECIPES: dict[Architecture, Recipe] = {
    # Gemma Scope (arXiv 2408.05147, section 3 and appendix A).
    "jumprelu": Recipe(lr=7e-5, rule=Rule(), biases=("b_enc", "threshold"), opener="threshold"),
    # dictionary_learning's trainer of arXiv 2404.16014, but for RI-L1 with its free norms, and the
    # cut: without it, features die at rates of short runs (LOG.md).
    "gated": Recipe(
        lr=5e-5,
        rule=Rule(unit_norm=False, clip=1.0),
        biases=("b_gate", "b_mag", "r_mag"),
        opener="b_gate",
        first_lambda=0.1,
    ),
    # Gao et al. (arXiv 2406.04093): lr 2e-4 at 2^14 features, falling as 1/sqrt(d_sae); there b_dec
    # starts at the geometric median. Selecting the largest pre-activations needs rows of one norm.
    "topk": Recipe(
        lr=2e-4,
        rule=Rule(beta1=0.9, clip=1.0),
        biases=("b_enc",),
        starts_at_mean=True,
        has_lambda=False,
        free_decoder=False,
    ),
    # Conerly et al., April 2024.
    "standard": Recipe(
        lr=5e-5,
        rule=Rule(beta1=0.9, unit_norm=False, clip=1.0),
        biases=("b_enc",),
        opener="b_enc",
        shrinks=True,
        first_lambda=0.1,
    ),
}
