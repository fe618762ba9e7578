"""The request of a feature's explanations by a language model."""

from app.requests.models import sae_parameter
from app.requests.parameters import Request, Whole, parameter


class ExplainRequest(Request):
    """The explanations of a feature, and another one where the model is to be asked."""

    feature: Whole = parameter(..., "Feature", "Number of the feature.", least=0)
    sae: str = sae_parameter()
    ask: bool = parameter(
        False,
        "Ask",
        "Whether to ask the model at the endpoint that the app was started with; otherwise the "
        "answer says what asking costs.",
    )
