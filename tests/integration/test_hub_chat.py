"""A chat model of the hub with an SAE of its base model: a conversation, steered."""

import json
from pathlib import Path

from tests.hub import Hub
from tests.hub_protocol import MEMBER_TOKEN
from tests.tiny_chat import END, START

RUN = """
import json
from app.endpoints import Api
from app.engine.workbench import Workbench
from app.service.overview import chat
from app.settings import Settings
from sae_core.workspace import workspace

bundle = workspace(
    "google/gemma-2-2b-it", ["gemma-scope-2b-pt-res/layer_1/width_16k/average_l0_22"]
)
api = Api(Workbench(Settings(device="cpu", threads=1, check_tokens=0), bundle))
messages = [{"role": "user", "content": "Where does the river go?"}]
edits = [{"feature": 5, "mode": "set", "value": 3.0}]
answer = api.steer(messages=messages, edits=edits, max_new_tokens=3, temperature=0)
print(json.dumps([chat(api.workbench), "".join(t["text"] for t in answer["prompt_tokens"]),
                  len(answer["steered"]), sorted(api.workbench.load().ends)]))
"""


def test_a_chat_model_of_the_hub_answers(hub: Hub, tmp_path: Path) -> None:
    done = hub.python("-c", RUN, cache=tmp_path, token=MEMBER_TOKEN)
    assert done.returncode == 0, done.stderr
    chat, prompt, tokens, ends = json.loads(done.stdout.splitlines()[-1])
    assert chat == {"system": False, "end": END}
    assert prompt == f"<bos>{START}user\nWhere does the river go?{END}\n{START}model\n"
    assert 0 < tokens <= 3
    assert ends == [1, 385]
