"""What can be asked of the app: one pydantic model a request, and how values become one."""

from app.requests.blind_models import RatingsRequest
from app.requests.compare_models import (
    CompareRequest,
    PatchRequest,
    SpliceRequest,
    SwitchRequest,
)
from app.requests.effect_models import EffectNumber, EffectsRequest, PairRequest
from app.requests.explain_models import ExplainRequest
from app.requests.find_models import CoActivationRequest, FindRequest
from app.requests.ladder_models import LadderRequest
from app.requests.lists_models import ListsRequest, SavedRequest
from app.requests.map_models import MapRequest
from app.requests.models import (
    AnalysisNumber,
    CheckRequest,
    ContextNumber,
    DeltaLossRequest,
    EditRequest,
    FeatureOnTextRequest,
    FeatureRequest,
    Message,
    PromptFeaturesRequest,
    ReproduceRequest,
    RunNumber,
    SearchRequest,
    SteerRequest,
    TokensRequest,
)
from app.requests.notes_models import NotesRequest
from app.requests.parameters import Kind, Parameter, Request, parameters_of
from app.requests.parsing import RequestError, parsed, shown
from app.requests.prove_models import ProveRequest
from app.requests.sql_models import SqlRequest
from app.requests.threshold_models import ThresholdRequest

__all__ = [
    "AnalysisNumber",
    "CheckRequest",
    "CoActivationRequest",
    "CompareRequest",
    "ContextNumber",
    "DeltaLossRequest",
    "EditRequest",
    "EffectNumber",
    "EffectsRequest",
    "ExplainRequest",
    "FeatureOnTextRequest",
    "FeatureRequest",
    "FindRequest",
    "Kind",
    "LadderRequest",
    "ListsRequest",
    "MapRequest",
    "Message",
    "NotesRequest",
    "PairRequest",
    "Parameter",
    "PatchRequest",
    "PromptFeaturesRequest",
    "ProveRequest",
    "RatingsRequest",
    "ReproduceRequest",
    "Request",
    "RequestError",
    "RunNumber",
    "SavedRequest",
    "SearchRequest",
    "SpliceRequest",
    "SqlRequest",
    "SteerRequest",
    "SwitchRequest",
    "ThresholdRequest",
    "TokensRequest",
    "parameters_of",
    "parsed",
    "shown",
]
