"""`jumpscope ratings`: the rates of people's ratings, or the plan of what is to be rated."""

from dataclasses import dataclass
from typing import Any, Literal

from app.commands.shared import JSONFlag, chosen_bundle, shown, table, to_json


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """Print what people who rated features blind have said: rates per SAE, and their agreement.

    Rates have Wilson intervals of 95 %. Agreement is Cohen's kappa of each two raters and
    Krippendorff's alpha of all. Ratings are made on the app's page /blind.
    """

    plan: JSONFlag = False
    """Print the plan instead, which shows what raters must not know."""
    kind: Literal["meaning", "intruders"] = "meaning"
    """Of the plan: what is asked."""
    saes: tuple[str, ...] = ()
    """Of the plan: names of the SAEs; none takes all that have an index."""
    per_sae: int = 20
    """Of the plan: features of each SAE, evenly from bands of frequency."""
    seed: int = 0
    """Draws the plan."""
    notes: str = ""
    """File that keeps ratings; empty is notes.duckdb in the user's data folder."""
    bundle: str = ""
    """Folder of the bundle, which names the SAEs; the bundled demo if neither it nor a model is
    given."""
    model: str = ""
    """Without a bundle: hub id of the language model, maybe with @revision, or its folder."""
    sae: tuple[str, ...] = ()
    """With model: hub ids of SAEs, or their folders."""
    json: JSONFlag = False
    """Print JSON, with every number's definition."""

    def execute(self) -> str:
        """Rates or plan, as JSON or as tables."""
        from app.engine.workbench import Workbench
        from app.requests import RatingsRequest, parsed
        from app.service import blind
        from app.settings import Settings

        bundle = chosen_bundle(self.bundle, self.model, list(self.sae), "demo")
        workbench = Workbench(Settings(notes=self.notes), bundle)
        if not self.plan:
            answer = blind.rates(workbench)
            return to_json(answer) if self.json else as_text(answer)
        given = {
            "kind": self.kind,
            "saes": ",".join(self.saes),
            "per_sae": self.per_sae,
            "seed": self.seed,
        }
        items = blind.plan_of(workbench, parsed(RatingsRequest, given, workbench.settings))
        rows = [{"at": at, **vars(item)} for at, item in enumerate(items)]
        if self.json:
            return to_json({**given, "items": rows})
        cells = [[str(r["at"]), r["sae"], f"#{r['feature']}", r["band"]] for r in rows]
        return table([["item", "SAE", "feature", "frequency"], *cells])


def as_text(answer: dict[str, Any]) -> str:
    """The rates as tables; that there are none where nothing was rated."""
    parts = []
    meaning, intruders = answer["meaning"], answer["intruders"]
    if meaning["ratings"]:
        parts += [_counted("meaning", meaning), _meaning(meaning), _agreement(meaning)]
    if intruders["ratings"]:
        parts += [_counted("intruders", intruders), _intruders(intruders)]
    if not parts:
        return "there are no ratings: the app's page /blind asks for them."
    return "\n\n".join(parts)


def _counted(kind: str, answer: dict[str, Any]) -> str:
    raters = answer["raters"]
    return (
        f"{kind}: {answer['ratings']:,} ratings of {answer['features']:,} features by "
        f"{len(raters)} {'rater' if len(raters) == 1 else 'raters'} ({', '.join(raters)})"
    )


def _meaning(answer: dict[str, Any]) -> str:
    rows = [["SAE", "rater", "ratings", "YES", "MAYBE", "NO", "grade"]]
    for sae in answer["saes"]:
        rows.append([sae["sae"], "all", *_rates(sae)])
        if len(sae["by_rater"]) > 1:
            rows += [["", each["rater"], *_rates(each)] for each in sae["by_rater"]]
    return table(rows)


def _rates(row: dict[str, Any]) -> list[str]:
    cells = [
        f"{each['rate']:.0%} [{each['low']:.0%}, {each['high']:.0%}]" for each in row["verdicts"]
    ]
    return [str(row["ratings"]), *cells, f"{row['grade']:.2f}"]


def _agreement(answer: dict[str, Any]) -> str:
    if not answer["rated_by_several"]:
        return "agreement: no feature was rated by two raters."
    lines = [
        f"agreement on {answer['rated_by_several']:,} features that several rated: Krippendorff's "
        f"alpha {shown(answer['alpha'])}"
    ]
    lines += [
        f"  {' and '.join(pair['raters'])}: Cohen's kappa {shown(pair['kappa'])} on "
        f"{pair['features']:,} features"
        for pair in answer["kappas"]
        if pair["features"]
    ]
    return "\n".join(lines)


def _intruders(answer: dict[str, Any]) -> str:
    rows = [["SAE", "rater", "tests", "named", "share", "chance", "p"]]
    for sae in answer["saes"]:
        each = [("all", sae)] + [(row["rater"], row) for row in sae["by_rater"]]
        for n, (rater, row) in enumerate(each[: None if len(each) > 2 else 1]):
            rows.append(
                [
                    sae["sae"] if n == 0 else "",
                    rater,
                    str(row["ratings"]),
                    f"{row['named']} of {row['of']}",
                    f"{row['intruders_named']:.0%}",
                    f"{answer['chance']:.0%}",
                    shown(row["intruder_p"]),
                ]
            )
    return table(rows)
