"""Names known from elsewhere: what the constructor says of them, and what is made of whole configurations."""

import copy
import dataclasses
import math

import pytest
import torch
from records import EVERYTHING
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

import pyllmdecode as pld
from pyllmdecode import SamplingParams, names

FIELDS = [field.name for field in dataclasses.fields(SamplingParams)]


@pytest.mark.parametrize(
    ("name", "said"),
    {
        "eos_token_id": "here: eos_token_ids",
        "stop_token_ids": "here: eos_token_ids",
        "repeat_penalty": "here: repetition_penalty",
        "min_tokens": "here: min_new_tokens",
        "max_tokens": "it belongs to the generation loop",
        "max_new_tokens": "it belongs to the generation loop",
        "ignore_eos": "here: an end is the generation loop's to see; without eos_token_ids nothing here knows of one",
        "do_sample": "here: False is temperature=0, True is any other",
        "stop": "here: not offered yet, the generation loop can end a text there; eos_token_ids takes token ids",
        "n": "here: not offered yet; a row for each, with seeds from pyllmdecode.seeds",
        "tfs_z": "not offered yet",
        "num_beams": "not offered yet",
        "penalty_alpha": "not offered yet",
        "guided_json": "not offered yet",
        "guided_something": "not offered yet",
        "mirostat": "not offered yet",
        "logits_processors": "here: not offered; change the logits before the step",
        "n_probs": "here: top_logprobs",
        "temprature": "did you mean temperature?",
        "frequence_penalty": "did you mean frequency_penalty?",
        "top_kk": "did you mean top_k?",
        "max_new_token": "did you mean max_new_tokens? it belongs to the generation loop",
        "repeat_penality": "did you mean repeat_penalty? here: repetition_penalty",
        "zzz": f"accepted: {', '.join(FIELDS)}",
    }.items(),
)
def test_an_unknown_name_says_what_to_do(name, said):
    message = f"{name}: not a field of SamplingParams; {said}"
    for call in (
        lambda: SamplingParams(**{name: 1}),
        lambda: SamplingParams(temperature=0.5, **{name: None}),
        lambda: dataclasses.replace(SamplingParams(), **{name: 1}),
        lambda: getattr(copy, "replace", dataclasses.replace)(SamplingParams(), **{name: 1}),
    ):
        with pytest.raises(TypeError) as error:
            call()
        assert str(error.value) == message


def test_fields_have_to_be_named():
    with pytest.raises(TypeError) as error:
        SamplingParams(0.7, top_k=3)
    assert str(error.value) == "SamplingParams: got 0.7 without a name; accepted: fields by name, top_k=50 say"


def test_no_name_has_two_meanings():
    kinds = [set(names.CALLED_HERE), set(names.OF_THE_LOOP), set(names.NOT_OFFERED), set(FIELDS)]
    assert sum(map(len, kinds)) == len(set().union(*kinds))
    assert set(names.CALLED_HERE.values()) <= set(FIELDS)


def test_from_openai():
    request = {
        "model": "m",
        "messages": [{"role": "user", "content": "?"}],
        "max_tokens": 100,
        "stop": ["\n"],
        "n": 3,
        "stream": True,
        "logprobs": True,
        "temperature": 0.7,
        "top_p": None,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "logit_bias": {"42": -100, "7": 1.5},
        "seed": -5,
        "top_k": -1,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "min_tokens": 4,
        "stop_token_ids": [2, 3],
        "response_format": {"type": "text"},
        "guided_json": None,
        "use_beam_search": False,
    }
    before = copy.deepcopy(request)
    assert SamplingParams.from_openai(request) == SamplingParams(
        temperature=0.7,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logprobs="raw",
        logit_bias={42: -100.0, 7: 1.5},
        seed=-5,
        top_k=-1,
        min_p=0.05,
        repetition_penalty=1.1,
        min_new_tokens=4,
        eos_token_ids=(2, 3),
    )
    assert request == before
    assert SamplingParams.from_openai({}) == SamplingParams()
    assert SamplingParams.from_openai(EVERYTHING) == SamplingParams(**EVERYTHING)


@pytest.mark.parametrize(
    ("kind", "request_", "message"),
    [
        (TypeError, {"temprature": 1}, "temprature: not a field of SamplingParams; did you mean temperature?"),
        (TypeError, {"temprature": None}, "temprature: not a field of SamplingParams; did you mean temperature?"),
        (ValueError, {"penalty_alpha": 0.9}, "penalty_alpha: got 0.9; accepted: None, 0 (not offered yet)"),
        (
            ValueError,
            {"response_format": {"type": "json_object"}},
            "response_format: got {'type': 'json_object'}; accepted: None, {'type': 'text'} (not offered yet)",
        ),
        (ValueError, {"guided_regex": "a+"}, "guided_regex: got 'a+'; accepted: None (not offered yet)"),
        (
            ValueError,
            {"min_tokens": 3, "min_new_tokens": 4},
            "min_new_tokens: got 4, and another value for min_new_tokens; accepted: one of them",
        ),
        (ValueError, {"temperature": -1}, "temperature: got -1; accepted: a finite number >= 0"),
        (TypeError, [("top_k", 3)], "request: got list; accepted: a mapping, such as the parsed JSON"),
    ],
)
def test_from_openai_refuses(kind, request_, message):
    with pytest.raises(kind) as error:
        SamplingParams.from_openai(request_)
    assert str(error.value) == message


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=2, initializer_range=0.4,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7, "top_p": 0.5},  # without do_sample transformers takes the most probable token
        {"do_sample": False, "repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
        {"do_sample": True},  # of the 50 most probable ones, as transformers has it
        {"do_sample": True, "top_k": 0},
        {"do_sample": True, "top_k": 7, "temperature": 0.6, "top_p": 0.8},
        {"do_sample": True, "min_p": 0.1, "temperature": 1.4, "top_k": None},
        {"do_sample": True, "repetition_penalty": 1.3, "no_repeat_ngram_size": 1, "top_p": 1.0, "typical_p": 1.0},
        {"do_sample": True, "top_k": 0, "bad_words_ids": [[5], [2], [3, 4]], "suppress_tokens": [8, 2, 9]},
        {"do_sample": True, "top_k": 0, "bad_words_ids": [[5], [2], [3, 4]], "eos_token_id": [7, 2]},
        {"do_sample": True, "top_k": 0, "min_new_tokens": 3, "min_length": 60, "eos_token_id": [7, 11]},
    ],
    ids=str,
)
def test_from_generation_config_is_what_transformers_does(model, options):
    """Step by step, over what `generate` gets from the model and makes of it."""
    config = GenerationConfig(**{"eos_token_id": 2, "pad_token_id": 0, "max_new_tokens": 6} | options)
    params = SamplingParams.from_generation_config(config)
    assert SamplingParams.from_generation_config(config.to_dict()) == params
    assert SamplingParams.from_generation_config({"eos_token_id": 2, "max_new_tokens": 6} | options) == params

    prompt = torch.tensor([[1, 3, 4, 5, 3]])
    torch.manual_seed(1)
    made = model.generate(
        prompt, generation_config=config, output_logits=True, output_scores=True, return_dict_in_generate=True
    )
    steps = zip(made.logits, made.scores, strict=True)
    for step, (logits, scores) in enumerate(steps):
        history = made.sequences[:, : prompt.shape[1] + step]
        ours = pld.process_logits(logits, params, history, prompt_lengths=[prompt.shape[1]])
        if not config.do_sample:
            assert ours.isfinite().sum() == 1 and ours.argmax() == scores.argmax() == made.sequences[0, len(history[0])]
        else:
            assert torch.equal(ours.isfinite(), scores.isfinite())
            assert torch.allclose(ours, scores, rtol=1e-5)
    assert step >= 0


def test_every_field_of_transformers_is_known():
    """What the installed version has by default is accepted, and has no field that is not known here."""
    known = {*names.CALLED_HERE, *names.OF_THE_LOOP, *names.NOT_OFFERED, *FIELDS}
    known |= {"do_sample", "min_length", "suppress_tokens"}
    fields = {name for name in GenerationConfig().to_dict() if not name.startswith("_")}
    assert len(fields) > 40 and fields <= known
    defaults = GenerationConfig._get_default_generation_params()
    assert SamplingParams.from_generation_config(defaults).temperature == 0
    assert SamplingParams.from_generation_config(defaults | {"do_sample": True}) == SamplingParams(top_k=50)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ValueError, {"num_beams": 4}, "num_beams: got 4; accepted: None, 1 (not offered yet)"),
        (ValueError, {"penalty_alpha": 0.9}, "penalty_alpha: got 0.9; accepted: None, 0 (not offered yet)"),
        (ValueError, {"min_length": 9}, "min_length: got 9; accepted: 0, or anything beside min_new_tokens, which"),
        (ValueError, {"top_p": 1.5}, "top_p: got 1.5; accepted: a number in (0, 1], or None"),
        (TypeError, {"do_sample": "yes"}, "do_sample: got 'yes' (str); accepted: True, False"),
        (TypeError, {"bad_words_ids": [5]}, "bad_words_ids[0]: got 5 (int); accepted: a sequence of token ids >= 0"),
        (TypeError, {"suppress_tokens": 5}, "suppress_tokens: got 5 (int); accepted: a sequence of token ids >= 0"),
        (TypeError, {"top_q": 0.5}, "top_q: not a field of SamplingParams; did you mean top_"),
    ],
)
def test_from_generation_config_refuses(kind, options, message):
    with pytest.raises(kind) as error:
        SamplingParams.from_generation_config(options)
    assert str(error.value).startswith(message)
    for wrong in (None, 3, [("top_k", 3)]):
        with pytest.raises(TypeError, match=r"config: got \w+; accepted: a transformers.GenerationConfig, or a"):
            SamplingParams.from_generation_config(wrong)


def test_subclasses_make_themselves():
    class Mine(SamplingParams):
        pass

    assert type(Mine.from_openai({"top_k": 3})) is type(Mine.from_generation_config({"top_k": 3})) is Mine
    assert math.isclose(Mine.from_openai({"min_p": 0.25}).min_p, 0.25)
