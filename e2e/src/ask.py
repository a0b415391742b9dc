"""Asks an OpenAI-compatible server one question with the official client and prints the answer as it comes.

usage: ask.py BASE_URL MODEL QUESTION
"""

import sys

import openai

base_url, model, question = sys.argv[1:4]
client = openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120)
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": question}],
    max_tokens=64,
    temperature=0,
    stream=True,
    stream_options={"include_usage": True},
)
usage = None
for event in stream:
    usage = event.usage or usage
    for choice in event.choices:
        print(choice.delta.content or "", end="", flush=True)
print()
if usage is None:
    sys.exit("the stream ended without usage")
print(f"({usage.prompt_tokens} tokens in, {usage.completion_tokens} out)")
