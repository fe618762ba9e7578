"""The app from Python and notebooks: `launch`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.server import RunningApp


def launch(
    bundle: str = "",
    *,
    model: str = "",
    sae: str | Sequence[str] = (),
    block: bool = True,
    **settings: Any,
) -> "RunningApp":
    """Open the app on a bundle (`demo` is the bundled one), or on a model and SAEs named by id.

        app.launch("demo", port=0, block=False)
        app.launch(model="google/gemma-2-2b", sae="my-sae")

    `settings` are fields of `Settings` (`jumpscope serve --help` lists them), the others come from
    the environment; a browser is opened only where `open_browser=True` says so. With `block` it
    serves until it is interrupted; otherwise it returns at once what has `url` and `close()` and
    shows itself in a notebook. ValueError with one sentence for a bundle, a setting or a port that
    cannot be had.
    """
    # Only here: what starts a command or reads a setting does not wait for Gradio.
    from app.commands.shared import served_bundle
    from app.server import serve
    from app.settings import Settings
    from app.waiting import wait_for_interrupt

    saes = (sae,) if isinstance(sae, str) else tuple(sae)
    chosen = served_bundle(bundle, model, saes)
    given: dict[str, Any] = {"open_browser": False} | settings
    app = serve(Settings.from_environment(None, **given), chosen)
    if block:
        try:
            wait_for_interrupt()
        except KeyboardInterrupt:
            pass
        finally:
            app.close()
    return app
