"""The decode loop around a model of transformers: padding, rows that finish, errors, and text from tokens."""

import string
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import pyllmdecode as pld
from pyllmdecode.cli.text import TextStream, to_text

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

from pyllmdecode.cli.generate import generate, new_tokens  # noqa: E402

GREEDY = pld.SamplingParams(temperature=0.0)
PROMPTS = ["a", "The quick brown fox", "日本語 text", "x = 1\n"]
MAX_POSITIONS = 96


def byte_tokenizer():
    """One token per byte, so that most characters outside ASCII are several tokens; then <eos> and <pad>."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>")


def tiny_llama(dtype: torch.dtype = torch.float64):
    """Random weights, large ones: with small ones every token is as probable as any other."""
    config = transformers.LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return transformers.LlamaForCausalLM(config).eval().to(dtype)


def tiny_gpt2():
    """Absolute positions: a row that is padded and does not account for it gets other logits. Llama's are relative."""
    config = transformers.GPT2Config(
        vocab_size=258,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=MAX_POSITIONS,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(12)
        return transformers.GPT2LMHeadModel(config).eval().to(torch.float64)


@pytest.fixture(scope="module")
def tokenizer():
    made = byte_tokenizer()
    made.eos_token = None  # the tests say themselves where a text ends
    return made


@pytest.fixture(params=[tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def model(request):
    return request.param()


def test_a_batch_gives_what_each_prompt_gives_alone(model, tokenizer):
    together = generate(model, tokenizer, PROMPTS, GREEDY, max_new_tokens=24)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, tokenizer, [prompt], GREEDY, max_new_tokens=24)
        assert together.token_ids[row] == alone.token_ids[0]
        assert together.prompt_ids[row] == alone.prompt_ids[0]
    assert together.tokens == 24 * len(PROMPTS)
    assert together.model_seconds > 0 and together.sampler_seconds > 0


def test_greedy_is_the_argmax_of_the_model(model, tokenizer):
    """Without cache, padding or batch: the whole text through the model for each token."""
    made = generate(model, tokenizer, [PROMPTS[1]], GREEDY, max_new_tokens=12)
    ids = list(made.prompt_ids[0])
    with torch.inference_mode():
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].float().argmax()))
    assert made.token_ids[0] == ids[-12:]


def test_sampling_in_a_batch_is_sampling_alone(model, tokenizer):
    params = [
        pld.SamplingParams(temperature=0.9, top_p=0.9, seed=5),
        pld.SamplingParams(top_k=20, repetition_penalty=1.3, seed=6),
        pld.SamplingParams(temperature=1.5, no_repeat_ngram_size=2, seed=7),
        pld.SamplingParams(min_p=0.05, seed=8),
    ]
    together = generate(model, tokenizer, PROMPTS, params, max_new_tokens=24)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, tokenizer, [prompt], params[row], max_new_tokens=24)
        assert together.token_ids[row] == alone.token_ids[0]


def cut(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos in ids else ids


@pytest.mark.parametrize("source", ["params", "generation config", "tokenizer"])
def test_a_row_stops_at_its_eos_and_the_others_go_on(model, source):
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    free = generate(model, tokenizer, PROMPTS, GREEDY, max_new_tokens=24).token_ids
    eos = free[1][5]
    params = GREEDY
    if source == "params":
        params = pld.SamplingParams(temperature=0.0, eos_token_ids=eos)
    elif source == "generation config":
        model.generation_config.eos_token_id = [eos, 257]
    else:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
    made = generate(model, tokenizer, PROMPTS, params, max_new_tokens=24)
    assert made.token_ids == [cut(ids, eos) for ids in free]
    assert len({len(ids) for ids in made.token_ids}) > 1  # rows of different lengths did leave the batch
    assert made.finish_reasons == ["eos" if eos in ids else "length" for ids in free]


def test_a_row_stops_where_its_callback_says_so(model, tokenizer):
    free = generate(model, tokenizer, PROMPTS, GREEDY, max_new_tokens=12).token_ids
    made = generate(
        model, tokenizer, PROMPTS, GREEDY, max_new_tokens=12, on_token=lambda row, token: token == free[2][3]
    )
    assert made.token_ids == [cut(ids, free[2][3]) for ids in free]
    assert made.finish_reasons[2] == "stop"


def test_the_default_length_is_what_the_model_has_room_for(model, tokenizer):
    """Each row up to the model's last position, whatever the others do; 128 where that is nearer."""
    prompts = ["a", "b" * 50, "c" * (MAX_POSITIONS - 1)]
    made = generate(model, tokenizer, prompts, GREEDY)
    assert [len(ids) for ids in made.token_ids] == [MAX_POSITIONS - len(prompt) for prompt in prompts]
    for row, prompt in enumerate(prompts):
        assert generate(model, tokenizer, [prompt], GREEDY).token_ids[0] == made.token_ids[row]
    config = transformers.LlamaConfig(vocab_size=258, max_position_embeddings=1000)
    assert new_tokens(config, [[1], [1] * 900], None) == [128, 100]
    assert new_tokens(config, [[1], [1] * 900], 99) == [99, 99]


def test_min_new_tokens_counts_for_the_eos_of_the_model(model, tokenizer):
    free = generate(model, tokenizer, PROMPTS[:1], GREEDY, max_new_tokens=24).token_ids[0]
    model.generation_config.eos_token_id = free[0]
    assert len(generate(model, tokenizer, PROMPTS[:1], GREEDY, max_new_tokens=24).token_ids[0]) == 1
    params = pld.SamplingParams(temperature=0.0, min_new_tokens=4)
    made = generate(model, tokenizer, PROMPTS[:1], params, max_new_tokens=24).token_ids[0]
    assert len(made) > 4 and free[0] not in made[:4]


def test_callbacks_see_every_token_and_the_rows_that_run(model, tokenizer):
    tokens, shapes = [[] for _ in PROMPTS], []
    made = generate(
        model,
        tokenizer,
        PROMPTS,
        GREEDY,
        max_new_tokens=6,
        on_token=lambda row, token: tokens[row].append(token),
        on_logits=lambda rows, logits: shapes.append((list(rows), tuple(logits.shape))),
    )
    assert tokens == made.token_ids
    assert shapes == [(list(range(len(PROMPTS))), (len(PROMPTS), 258))] * 6


def test_a_row_that_can_draw_nothing_stops(model, tokenizer):
    nothing = pld.SamplingParams(allowed_token_ids=[])
    ended = []
    made = generate(
        model,
        tokenizer,
        PROMPTS[:2],
        [nothing, GREEDY],
        max_new_tokens=5,
        on_end=lambda *row: ended.append(row),
    )
    assert [len(ids) for ids in made.token_ids] == [0, 5]
    assert made.finish_reasons == ["empty", "length"] and ended == [(0, "empty"), (1, "length")]


def test_token_ids_are_prompts_too(model, tokenizer):
    ids = tokenizer(PROMPTS[1])["input_ids"]
    from_text = generate(model, tokenizer, PROMPTS[1:2], GREEDY, max_new_tokens=5)
    assert generate(model, tokenizer, [ids], GREEDY, max_new_tokens=5).token_ids == from_text.token_ids
    assert generate(model, tokenizer, [], GREEDY, max_new_tokens=5).token_ids == []


@pytest.mark.parametrize(
    "prompts, params, new, message",
    [
        (["a"], GREEDY, 0, "max_new_tokens: got 0"),
        (["a"], GREEDY, MAX_POSITIONS, f"max_new_tokens: got {MAX_POSITIONS} after a prompt of 1; accepted"),
        (["a"], [GREEDY, GREEDY], 5, "params: got 2; accepted: one for all 1 prompts"),
        (["a", ""], GREEDY, 5, r"prompts\[1\]: got no tokens"),
        (["a", "b" * MAX_POSITIONS], GREEDY, None, rf"prompts\[1\]: got {MAX_POSITIONS} tokens"),
        ([[7], [258]], GREEDY, 5, r"prompts\[1\]: got token id 258; accepted by the model: \[0, 258\)"),
        (["a"], pld.SamplingParams(allowed_token_ids=[258]), 5, "allowed_token_ids: got token id 258"),
    ],
)
def test_wrong_arguments(model, tokenizer, prompts, params, new, message):
    with pytest.raises(ValueError, match=message):
        generate(model, tokenizer, prompts, params, max_new_tokens=new)


@pytest.mark.parametrize("text", ["plain text", " spaces  kept ", "héllo 日本語 🙂🙂 \n\tend", "e\u0301", "🙂"])
def test_stream_shows_only_whole_characters(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == text and stream.flush() == ""
    for piece, character in zip([piece for piece in pieces if piece], text, strict=True):
        assert piece == character  # each as soon as its last byte is there


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 255), max_size=40), st.text(string.ascii_letters + "é日 ", max_size=12))
def test_stream_adds_up_to_the_decoded_whole(ids, before):
    """Any bytes, also such as are no text at all."""
    tokenizer = BYTES
    context = tokenizer(before)["input_ids"] if before else []
    assert before + to_text(tokenizer, ids, context) == tokenizer.decode(context + ids)


def before_stop(text: str, stops: list[str]) -> str:
    """By trying all beginnings of the text, shortest first."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - len(max(ending, key=len))]
    return text


@settings(deadline=None, max_examples=300)
@given(st.text("abé日", max_size=30), st.lists(st.text("abé日", min_size=1, max_size=4), max_size=3), st.booleans())
def test_stream_ends_before_a_stop_text(text, stops, at_once):
    """Also where the stop spans tokens, and whether a token is one byte or the whole text."""
    ids = BYTES(text)["input_ids"] if text else []
    tokenizer = SimpleNamespace(decode=lambda ids, **_: text if ids else "") if at_once else BYTES
    stream, pieces = TextStream(tokenizer, stops=stops), []
    for token in [0] if at_once else ids:
        pieces.append(stream.push(token))
        assert before_stop(text, stops).startswith("".join(pieces))  # nothing is taken back
    assert "".join(pieces) + stream.flush() == before_stop(text, stops)
    assert stream.stopped == any(stop in text for stop in stops)


BYTES = byte_tokenizer()
