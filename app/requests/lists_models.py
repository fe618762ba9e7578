"""The requests about lists of features and saved pages: what is done, and to which."""

from typing import Any, Literal

from app.requests.parameters import Request, Whole, parameter
from sae_core.notes import feature_lists, saved_pages


class ListsRequest(Request):
    """Your lists of features, one of them with its features, and what of it is to be changed."""

    list_id: str = parameter(
        "",
        "List",
        "Which one, by its id; empty answers the names of all alone.",
        unit="characters",
        most=40,
    )
    action: Literal["", "make", "rename", "remove", "add", "take", "move", "merge"] = parameter(
        "",
        "Action",
        "What is done: make, rename or remove one, add a feature, take one out, move one to "
        "another place, merge a file; empty changes nothing.",
    )
    name: str = parameter(
        "",
        "Name",
        "Name of the list that is made or renamed.",
        unit="characters",
        most=feature_lists.MOST_NAME,
    )
    feature: Whole | None = parameter(
        None, "Feature", "Number of the feature that is added, taken out or moved.", least=0
    )
    sae: str = parameter(
        "",
        "SAE",
        "Name of the feature's SAE, or the hash of its weights; empty is the bundle's first.",
    )
    place: Whole = parameter(
        0,
        "Place",
        "Place in the list, from 0, that a feature is moved to.",
        least=0,
        most=feature_lists.MOST_FEATURES,
    )
    document: dict[str, Any] | None = parameter(
        None,
        "File",
        "What a file that was downloaded from Lists holds, to be merged.",
        missing="Give what the downloaded file holds, as named values.",
    )
    source: str = parameter(
        "", "Name of the file", "Shown beside labels of the file.", unit="characters", most=200
    )
    theirs: str = parameter(
        "",
        "Taken from the file",
        "Keys of conflicts, with commas, in which the file's word takes the place of yours.",
        unit="characters",
        most=50_000,
    )
    features: list[Whole] | None = parameter(
        None,
        "Features",
        "Numbers of several features that are added, all or none.",
        unit="features",
        least=1,
        most=feature_lists.MOST_FEATURES,
        missing="Name at least one feature, or leave the features out.",
    )


class SavedRequest(Request):
    """Saved prompts, steerings and proofs, and one that is to be saved or removed."""

    action: Literal["", "save", "remove"] = parameter(
        "", "Action", "What is done: save a page or remove one; empty changes nothing."
    )
    name: str = parameter(
        "",
        "Name",
        "Name to save it by; one that has it already is replaced.",
        unit="characters",
        most=saved_pages.MOST_NAME,
    )
    address: str = parameter(
        "",
        "Address",
        "The page's address relative to the app, such as prompt?text=Once.",
        unit="characters",
        most=saved_pages.MOST_ADDRESS,
    )
    saved_id: str = parameter(
        "", "Saved page", "Id of the one that is removed.", unit="characters", most=40
    )
