#!/usr/bin/env python3
"""The unmodified OpenAI Python client against the server: what it sends is understood, and what comes back is what
its own types promise. The extension travels in `extra_body`, as any such client would send it.

test-timeout: 300
"""

import math
import sys

import openai

from server_process import Server, SkipCase, HEAD, expect, expect_true, in_parallel, require_model, run_cases

PROMPT = "The capital of France is"
QUESTION = [{"role": "system", "content": "You answer in one short sentence."},
            {"role": "user", "content": "What do otters eat?"}]


class Api:
    """The client with the names of one server filled in."""

    def __init__(self, server):
        self.server = server
        self.client = openai.OpenAI(base_url=server.url + "/v1", api_key="unused", max_retries=0, timeout=120)
        self.model = self.client.models.list().data[0].id

    def complete(self, prompt=PROMPT, **fields):
        fields = {"temperature": 0, "max_tokens": 12, **fields}
        return self.client.completions.create(model=self.model, prompt=prompt, **fields)

    def chat(self, messages=QUESTION, **fields):
        fields = {"temperature": 0, "max_tokens": 16, **fields}
        return self.client.chat.completions.create(model=self.model, messages=messages, **fields)

    def tokenize(self, text):
        return self.server.post("/tokenize", {"content": text}).ok()["tokens"]


def refused(call, kind, param=None):
    """The call fails with this kind of error; its body names the field."""
    try:
        answer = call()
    except openai.APIStatusError as error:
        expect_true(isinstance(error, kind), f"{type(error).__name__} where {kind.__name__} was expected: {error}")
        expect_true(isinstance(error.body, dict) and error.body.get("message"), f"no message in {error.body!r}")
        expect_true(error.body.get("type"), f"no type in {error.body!r}")
        if param is not None:
            expect(error.body.get("param"), param, "param")
        return error
    raise AssertionError(f"was answered: {answer!r}")


# ---- Models ------------------------------------------------------------------------------------------------

def lists_and_retrieves_models(api):
    models = api.client.models.list()
    expect(models.object, "list")
    expect(models.data[0].object, "model")
    expect(api.client.models.retrieve(api.model).id, api.model)
    refused(lambda: api.client.models.retrieve("no-such-model"), openai.NotFoundError)


# ---- Completions -------------------------------------------------------------------------------------------

def completes_text(api):
    answer = api.complete()
    expect(answer.object, "text_completion")
    expect(len(answer.choices), 1)
    expect_true("Paris" in answer.choices[0].text, f"no Paris in {answer.choices[0].text!r}")
    expect(answer.choices[0].finish_reason, "length")
    expect(answer.usage.prompt_tokens, len(api.tokenize(PROMPT)), "prompt tokens")
    expect(answer.usage.completion_tokens, 12, "completion tokens")
    expect(answer.usage.total_tokens, answer.usage.prompt_tokens + 12, "total tokens")


def completes_token_ids_alike(api):
    expect(api.complete(api.tokenize(PROMPT)).choices[0].text, api.complete().choices[0].text)


def completes_batches_in_order(api):
    prompts = [PROMPT, "Water boils at", "One, two, three,"]
    together = api.complete(prompts, n=2)
    expect([choice.index for choice in together.choices], list(range(6)))
    for i, prompt in enumerate(prompts):
        alone = api.complete(prompt).choices[0].text
        expect([choice.text for choice in together.choices[2 * i:2 * i + 2]], [alone, alone], f"prompt {i}")
    ids = api.complete([api.tokenize(prompt) for prompt in prompts])
    expect([choice.text for choice in ids.choices], [choice.text for choice in together.choices[::2]], "as token ids")


def samples_by_seed(api):
    def sample(seed):
        return [choice.text for choice in api.complete(temperature=1, n=4, seed=seed, max_tokens=16).choices]

    first = sample(7)
    expect(sample(7), first, "the same seed")
    expect_true(len(set(first)) > 1, f"all choices are the same: {first}")
    expect_true(sample(8) != first, f"another seed gives the same texts: {first}")


def narrows_the_choice(api):
    greedy = api.complete().choices[0].text
    for field in ({"top_p": 1e-6}, {"extra_body": {"top_k": 1}}, {"extra_body": {"min_p": 1}}):
        expect(api.complete(temperature=1, seed=3, **field).choices[0].text, greedy, str(field))


def reports_logprobs(api):
    choice = api.complete(logprobs=3).choices[0]
    got = choice.logprobs
    expect([len(got.tokens), len(got.token_logprobs), len(got.top_logprobs), len(got.text_offset)], [12] * 4)
    expect("".join(got.tokens), choice.text)
    for token, logprob, top, offset in zip(got.tokens, got.token_logprobs, got.top_logprobs, got.text_offset):
        expect_true(len(top) >= 3, f"{len(top)} alternatives")
        expect(logprob, max(top.values()), f"greedy takes the most probable ({token!r} of {top})")
        expect(top[token], logprob, "the same token in both lists")
        expect_true(sum(map(math.exp, top.values())) <= 1 + 1e-4, f"probabilities of {top} are over 1")
    expect(got.text_offset, [len(PROMPT) + len("".join(got.tokens[:i])) for i in range(12)], "text_offset, from the prompt's start")


def echoes_with_the_same_logprobs(api):
    said = api.complete(logprobs=0, extra_body={"return_token_ids": True}).choices[0]
    prompt = api.tokenize(PROMPT)
    whole = prompt + said.model_extra["token_ids"]
    echoed = api.complete(whole, echo=True, logprobs=0, max_tokens=0).choices[0]
    expect(echoed.text, PROMPT + said.text)
    expect(len(echoed.logprobs.token_logprobs), len(whole))
    expect(echoed.logprobs.token_logprobs[0], None, "nothing precedes the first token")
    expect(echoed.logprobs.token_logprobs[len(prompt):], said.logprobs.token_logprobs, "to the last bit")
    longer = api.complete(echo=True).choices[0].text
    expect(longer, PROMPT + said.text, "echo before a completion")


def stops_at_strings(api):
    whole = api.complete(max_tokens=32).choices[0].text
    middle = whole[8:14]
    stopped = api.complete(max_tokens=32, stop=[middle, "never to be seen"]).choices[0]
    expect(stopped.finish_reason, "stop")
    expect(stopped.text, whole[:whole.index(middle)])


def biases_and_penalises(api):
    ids = api.complete(extra_body={"return_token_ids": True}).choices[0].model_extra["token_ids"]
    other = api.complete(logit_bias={str(ids[0]): -100}, extra_body={"return_token_ids": True})
    expect_true(other.choices[0].model_extra["token_ids"][0] != ids[0], "a token with bias -100 was taken")
    dog, cat = (api.tokenize(word)[0] for word in (" dog", " cat"))
    expect(api.complete(logit_bias={dog: 100}, max_tokens=3).choices[0].text, " dog" * 3)
    # Both are far above the rest; a repeated word grows likelier by itself, until its count speaks against it.
    for penalty, n_words in ((0, 1), (2, 2)):
        text = api.complete(logit_bias={dog: 100, cat: 100}, frequency_penalty=penalty, max_tokens=24).choices[0].text
        expect(len(set(text.split())), n_words, f"different words in {text!r} with frequency_penalty {penalty}")


def keeps_on_past_the_end(api):
    for minimum in ({"ignore_eos": True}, {"min_tokens": 64}):
        answer = api.chat([{"role": "user", "content": "Say only: yes"}], max_tokens=64, extra_body=minimum)
        expect(answer.usage.completion_tokens, 64, str(minimum))


# ---- Chat --------------------------------------------------------------------------------------------------

def chats(api):
    answer = api.chat(max_tokens=48, n=2)
    expect(answer.object, "chat.completion")
    expect([choice.index for choice in answer.choices], [0, 1])
    message = answer.choices[0].message
    expect(message.role, "assistant")
    expect_true(message.content.strip(), "an empty answer")
    expect(answer.choices[1].message.content, message.content, "greedy choices")
    expect_true("<|im_" not in message.content, f"a special token in {message.content!r}")
    parts = [QUESTION[0], {"role": "user", "content": [{"type": "text", "text": QUESTION[1]["content"]}]}]
    expect(api.chat(parts, max_tokens=48).choices[0].message.content, message.content, "content in parts")
    expect(api.chat(max_tokens=openai.omit, max_completion_tokens=48).choices[0].message.content, message.content,
           "max_completion_tokens")


def takes_content_as_text(api):
    def prompt_tokens(content):
        return api.chat([{"role": "user", "content": content}], max_tokens=1).usage.prompt_tokens

    expect_true(prompt_tokens("<|im_end|>") > prompt_tokens("x") + 2,
                "a special token in a message became that token")


def reports_chat_logprobs(api):
    choice = api.chat(logprobs=True, top_logprobs=2).choices[0]
    content = choice.logprobs.content
    expect("".join(entry.token for entry in content), choice.message.content)
    for entry in content:
        expect(bytes(entry.bytes).decode(), entry.token)
        expect(len(entry.top_logprobs), 2)
        expect(entry.top_logprobs[0].logprob, entry.logprob, "greedy takes the most probable")


# ---- Streams -----------------------------------------------------------------------------------------------

def streams_completions(api):
    whole = api.complete(max_tokens=24)
    chunks = list(api.complete(max_tokens=24, stream=True, stream_options={"include_usage": True}))
    expect("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
    expect([c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason], ["length"])
    expect(chunks[-1].choices, [], "the last chunk has the usage and no choices")
    expect(chunks[-1].usage.completion_tokens, whole.usage.completion_tokens)
    expect_true(len(chunks) > 6, f"{len(chunks)} chunks for 24 tokens")
    expect(len({c.id for c in chunks}), 1, "one id")


def streams_chat(api):
    whole = api.chat(max_tokens=24, n=2)
    texts, reasons, roles = ["", ""], [None, None], [None, None]
    for chunk in api.chat(max_tokens=24, n=2, stream=True):
        expect(chunk.object, "chat.completion.chunk")
        expect_true(chunk.usage is None, "usage that nobody asked for")
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] = choice.delta.role or roles[choice.index]
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    expect(texts, [choice.message.content for choice in whole.choices])
    expect(reasons, [choice.finish_reason for choice in whole.choices])
    expect(roles, ["assistant"] * 2)


def streams_whole_characters(api):
    """Text of several bytes a character: each chunk is valid by itself, or the client could not have parsed it."""
    prompt = "日本語の文章を続けてください。猫は魚が好きです。犬は"
    whole = api.complete(prompt, max_tokens=24).choices[0].text
    pieces = [c.choices[0].text for c in api.complete(prompt, max_tokens=24, stream=True) if c.choices]
    expect("".join(pieces), whole)


def streams_logprobs(api):
    whole = api.complete(logprobs=2).choices[0].logprobs
    tokens, logprobs = [], []
    for chunk in api.complete(logprobs=2, stream=True):
        for choice in chunk.choices:
            if choice.logprobs:
                tokens += choice.logprobs.tokens
                logprobs += choice.logprobs.token_logprobs
    expect(tokens, whole.tokens)
    expect(logprobs, whole.token_logprobs)


# ---- Errors ------------------------------------------------------------------------------------------------

def refuses_by_name(api):
    for field, value in (("max_tokens", -1), ("temperature", 9), ("top_p", 2), ("n", 0), ("logprobs", 1000),
                         ("presence_penalty", 5)):
        refused(lambda field=field, value=value: api.complete(**{field: value}), openai.BadRequestError, field)
    refused(lambda: api.complete(prompt=[]), openai.BadRequestError, "prompt")
    refused(lambda: api.complete(prompt=[1, 1 << 30]), openai.BadRequestError)
    refused(lambda: api.chat([]), openai.BadRequestError, "messages")
    refused(lambda: api.client.completions.create(model="no-such-model", prompt="x"), openai.NotFoundError, "model")
    error = refused(lambda: api.complete(prompt="word " * 20000), openai.BadRequestError)
    expect(error.code, "context_length_exceeded", "code")
    expect_true(api.complete().choices[0].text, "the server goes on after errors")


def refuses_bad_interventions(api):
    for intervention in ({"signals": ["no-such-head"]}, {"reward": {"heads": {"no-such-head": 1}}},
                         {"signals": "toxicity"}, {"reward": {"heads": {"toxicity": "much"}}}, []):
        error = refused(lambda i=intervention: api.complete(extra_body={"intervention": i}), openai.BadRequestError)
        expect_true((error.body.get("param") or "").startswith("intervention"),
                    f"{intervention}: param {error.body.get('param')!r}")


# ---- Steering ----------------------------------------------------------------------------------------------

def carries_signals(api):
    if not HEAD.exists():
        raise SkipCase(f"no head at {HEAD}")
    body = {"intervention": {"signals": ["toxicity"]}}
    answer = api.complete(extra_body=body)
    signals = answer.choices[0].model_extra["signals"]["toxicity"]
    expect(len(signals), answer.usage.completion_tokens, "one signal a token")
    expect_true(all(0 <= s <= 1 for s in signals), f"not all in [0, 1]: {signals}")
    expect(answer.choices[0].text, api.complete().choices[0].text, "a signal disturbs nothing")
    streamed = []
    for chunk in api.complete(extra_body=body, stream=True):
        for choice in chunk.choices:
            streamed += ((choice.model_extra or {}).get("signals") or {}).get("toxicity", [])
    expect(streamed, signals, "in a stream")


def steers(api):
    if not HEAD.exists():
        raise SkipCase(f"no head at {HEAD}")
    prompts = ["You are such a", "He called me a", "My neighbour is a complete"]
    means = {}
    for weight in (-8.0, 8.0):
        answer = api.complete(prompts, max_tokens=24, extra_body={
            "intervention": {"reward": {"heads": {"toxicity": weight}, "candidates": 10}}})
        signals = [score for choice in answer.choices for score in choice.model_extra["signals"]["toxicity"]]
        means[weight] = sum(signals) / len(signals)
        expect_true(answer.usage.model_extra["intervention"], "usage.intervention")
    expect_true(means[8.0] > 2 * means[-8.0], f"mean toxicity by weight: {means}")


def serves_many_at_once(api):
    prompts = [f"{n} times {n} is" for n in range(2, 18)]
    alone = [api.complete(prompt).choices[0].text for prompt in prompts]
    expect(in_parallel([lambda p=p: api.complete(p).choices[0].text for p in prompts]), alone)


CASES = [lists_and_retrieves_models, completes_text, completes_token_ids_alike, completes_batches_in_order, samples_by_seed,
         narrows_the_choice, reports_logprobs, echoes_with_the_same_logprobs, stops_at_strings, biases_and_penalises,
         keeps_on_past_the_end, chats, takes_content_as_text, reports_chat_logprobs, streams_completions, streams_chat,
         streams_whole_characters, streams_logprobs, refuses_by_name, refuses_bad_interventions, carries_signals, steers,
         serves_many_at_once]


def main():
    require_model()
    flags = ["--head", f"toxicity={HEAD}"] if HEAD.exists() else []
    with Server(*flags) as server:
        return run_cases(CASES, Api(server))


if __name__ == "__main__":
    sys.exit(main())
