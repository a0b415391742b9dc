"""Scores, biases and bounds an answer with the official client, as evaluation harnesses and agents do.

usage: score.py BASE_URL MODEL
"""

import math
import sys

import openai

base_url, model = sys.argv[1:3]
client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120)


def score(text, **more):
    answer = client.completions.create(
        model=model, prompt=text, echo=True, logprobs=1, temperature=0, **more
    )
    return answer.choices[0].logprobs


likely, odd = (
    score(f"The capital of France is {city}", max_tokens=0) for city in ("Paris", "Quito")
)
assert likely.token_logprobs[0] is None, likely
assert likely.token_logprobs[-1] > odd.token_logprobs[-1], (likely, odd)
# As lm-eval sends it: one token more, which it cuts off.
longer = score("The capital of France is Paris", max_tokens=1)
assert len(longer.tokens) == len(likely.tokens) + 1, longer
assert math.isclose(sum(longer.token_logprobs[1:-1]), sum(likely.token_logprobs[1:]), abs_tol=0.5)

chat = dict(model=model, messages=[{"role": "user", "content": "Say something."}])
root = client.with_options(base_url=base_url.removesuffix("/v1"))
ids = root.post("/tokenize", body={"prompt": " yes"}, cast_to=object)["tokens"]
biased = client.chat.completions.create(
    **chat, max_tokens=3, logit_bias={str(ids[0]): 100}, temperature=0, stop=list("zqxjkw")
)
assert biased.choices[0].message.content.strip().startswith("yes"), biased
ended = client.chat.completions.create(
    **chat, max_tokens=20, extra_body={"stop_token_ids": ids, "min_tokens": 2},
    logit_bias={str(ids[0]): 100},
)
assert ended.choices[0].finish_reason == "stop" and ended.usage.completion_tokens == 3, ended
long = client.completions.create(model=model, prompt="a", max_tokens=10**6, stop=["e", " "])
assert long.choices[0].finish_reason in ("stop", "length"), long
samples = client.completions.create(
    model=model, prompt=["Once upon"] * 3, temperature=1, max_tokens=24
)
assert len({choice.text for choice in samples.choices}) == 3, samples
print("ok")
