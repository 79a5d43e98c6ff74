"""What other packages call the fields of SamplingParams, and what becomes of what they have and it has not.

The names are those of transformers' GenerationConfig, OpenAI's API, vLLM, SGLang and llama.cpp's server.
"""

import difflib
from collections.abc import Iterable, Mapping

from . import checks

CALLED_HERE = {
    "temp": "temperature",
    "repeat_penalty": "repetition_penalty",
    "rep_pen": "repetition_penalty",
    "min_tokens": "min_new_tokens",
    "eos_token_id": "eos_token_ids",
    "stop_token_ids": "eos_token_ids",
    "random_seed": "seed",
    "sampling_seed": "seed",
    "typ_p": "typical_p",
    "repeat_last_n": "penalty_last_n",
    "begin_suppress_tokens": "begin_suppress_token_ids",
    "suppress_tokens": "suppress_token_ids",
    "min_keep": "min_tokens_to_keep",
    "min_k_tau": "min_k",
}

# What is done with a text as a whole, or around a step: none of it changes what a step draws.
OF_THE_LOOP = frozenset(
    """
    max_tokens max_new_tokens max_completion_tokens max_length max_time n_predict num_predict max_cache_len
    n n_samples num_return_sequences best_of stop stop_str stop_strings stop_regex include_stop_str_in_output
    no_stop_trim ignore_eos stream stream_interval stream_options echo suffix model messages prompt input_ids user
    return_tokens return_progress store metadata service_tier modalities prediction reasoning_effort verbosity
    safety_identifier prompt_cache_key tools tool_choice parallel_tool_calls functions function_call chat_template
    chat_template_kwargs add_generation_prompt continue_final_message add_special_tokens documents detokenize
    skip_special_tokens spaces_between_special_tokens output_kind truncate_prompt_tokens extra_args request_id
    priority cache_prompt id_slot timings_per_token n_keep n_indent t_max_predict_ms n_probs post_sampling_probs
    prompt_logprobs flat_logprobs return_tokens_as_token_ids
    early_stopping length_penalty low_memory use_cache cache_implementation cache_config compile_config disable_compile
    renormalize_logits output_attentions output_hidden_states output_scores output_logits return_dict_in_generate
    pad_token_id bos_token_id decoder_start_token_id is_assistant num_assistant_tokens num_assistant_tokens_schedule
    assistant_confidence_threshold prompt_lookup_num_tokens max_matching_ngram_size assistant_early_exit
    assistant_lookbehind target_lookbehind speculation_type use_mtp prefill_chunk_size continuous_batching_config
    transformers_version
    """.split()
)

ANY = object()  # where another name decides whether it does anything

# What would change the draw and is not offered, with the values at which it does nothing, besides None.
NOT_OFFERED = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "use_beam_search": (False,),
    "diversity_penalty": (0,),
    "constraints": (),
    "force_words_ids": (),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "assistant_ensemble_weight": (),
    "guidance_scale": (1,),
    "tfs_z": (1,),
    "top_a": (0,),
    "mirostat": (0,),
    "mirostat_tau": ANY,
    "mirostat_eta": ANY,
    "samplers": (),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "remove_invalid_values": (False,),
    "token_healing": (False,),
    "watermarking_config": (),
    "bad_words": ([],),
    "logits_processors": ([],),
    "logits_processor": ([],),
    "custom_logit_processor": (),
    "custom_params": (),
    "response_format": ({"type": "text"},),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json_object": (False,),
    "guided_decoding_backend": ANY,
    "guided_whitespace_pattern": ANY,
    "json_schema": (),
    "regex": (),
    "ebnf": (),
    "structural_tag": (),
    "grammar": ("",),
}

_ADVICE = {
    "do_sample": "False is temperature=0, True is any other",
    "min_length": "min_new_tokens, which does not count the prompt",
    "generator": "seed",
    "stop": "not offered yet, the generation loop can end a text there; eos_token_ids takes token ids",
    "n": "not offered yet; a row for each, with seeds from pyllmdecode.seeds",
    "bad_words": "bad_words_ids, which takes token ids",
    "ignore_eos": "an end is the generation loop's to see; without eos_token_ids nothing here knows of one",
    "logits_processors": "not offered; change the logits before the step",
    "n_probs": "top_logprobs",
}
_ADVICE |= dict.fromkeys(("logits_processor", "custom_logit_processor"), _ADVICE["logits_processors"])
_ADVICE |= dict.fromkeys(("num_return_sequences", "best_of", "n_samples"), _ADVICE["n"])
_ADVICE |= dict.fromkeys(("stop_strings", "stop_str", "stop_regex"), _ADVICE["stop"])

_TRANSFORMERS_TOP_K = 50  # what `generate` takes where a configuration leaves it open


def advice(name: str, fields: Iterable[str]) -> str:
    """The message for a name that is none of the `fields`: what it is called here, or where it belongs."""
    fields = list(fields)
    found = _advice(name)
    if not found:
        elsewhere = {*CALLED_HERE, *OF_THE_LOOP, *NOT_OFFERED, *_ADVICE}
        # Among the names of others too: the nearest to max_new_token is not min_new_tokens.
        near = difflib.get_close_matches(name, [*fields, *sorted(elsewhere.difference(fields))], n=1, cutoff=0.7)
        if not near:
            found = f"accepted: {', '.join(fields)}"
        elif near[0] in fields:
            found = f"did you mean {near[0]}?"
        else:
            found = f"did you mean {near[0]}? {_advice(near[0])}"
    return f"{name}: not a field of SamplingParams; {found}"


def _advice(name: str) -> str:
    if name in _ADVICE:
        return f"here: {_ADVICE[name]}"
    if name in CALLED_HERE:
        return f"here: {CALLED_HERE[name]}"
    if name in OF_THE_LOOP:
        return "it belongs to the generation loop"
    return "not offered yet" if name in NOT_OFFERED or name.startswith("guided_") else ""


def from_openai(request, fields: Iterable[str]) -> dict:
    """The fields that a request in the form of OpenAI's API gives; see SamplingParams.from_openai."""
    if not isinstance(request, Mapping):
        raise TypeError(f"request: got {type(request).__name__}; accepted: a mapping, such as the parsed JSON")
    return _fields_among(request | _log_probabilities(request.get("logprobs")), list(fields))


def _log_probabilities(asked) -> dict:
    """OpenAI's chats say whether they want some, its completions and vLLM how many; a kind is as good."""
    if asked is None or isinstance(asked, str):
        return {}
    if isinstance(asked, bool):
        return {"logprobs": "raw" if asked else None}
    return {"logprobs": "raw", "top_logprobs": asked}


def from_generation_config(config, fields: Iterable[str]) -> dict:
    """The fields that a GenerationConfig of transformers gives; see SamplingParams.from_generation_config."""
    given = config.to_dict() if hasattr(config, "to_dict") else config
    if not isinstance(given, Mapping):
        kind = type(config).__name__
        raise TypeError(f"config: got {kind}; accepted: a transformers.GenerationConfig, or a mapping of its fields")
    given = {name: value for name, value in given.items() if value is not None and not name.startswith("_")}
    sampled = given.pop("do_sample", False)
    if not isinstance(sampled, bool):
        raise TypeError(f"do_sample: got {sampled!r} ({type(sampled).__name__}); accepted: True, False")
    shortest = given.pop("min_length", 0)
    if shortest and "min_new_tokens" not in given:
        raise ValueError(
            f"min_length: got {shortest!r}; accepted: 0, or anything beside min_new_tokens, which overrides it: "
            "how many new tokens it asks for depends on the prompt"
        )
    suppressed = checks.ids("suppress_tokens", given.pop("suppress_tokens", ()))
    taken = _fields_among(given, list(fields))
    words = checks.sequences("bad_words_ids", taken.get("bad_words_ids", ()))
    ends = checks.id_or_ids("eos_token_id", taken.get("eos_token_ids", ()))
    taken["bad_words_ids"] = [  # transformers lets an end come, even where it is a bad word
        *(ids for ids in words if len(ids) > 1 or ids[0] not in ends),
        *((token,) for token in suppressed),
    ]
    return {"top_k": _TRANSFORMERS_TOP_K} | taken if sampled else taken | {"temperature": 0.0}


def _fields_among(given: Mapping, fields: list[str]) -> dict:
    """What is given of the fields, under their names here. None is as good as nothing."""
    taken = {}
    for name, value in given.items():
        here = CALLED_HERE.get(name, name)
        if here not in fields:
            _require_off(name, value, fields)
        elif value is not None:
            if here in taken:
                raise ValueError(f"{name}: got {value!r}, and another value for {here}; accepted: one of them")
            taken[here] = value
    return taken


def _require_off(name: str, value, fields: list[str]) -> None:
    """ValueError where what is not offered is asked for, TypeError for a name that nobody knows."""
    if name in OF_THE_LOOP:
        return
    if name not in NOT_OFFERED:
        raise TypeError(advice(name, fields))
    off = NOT_OFFERED[name]
    if value is not None and off is not ANY and value not in off:
        accepted = ", ".join(map(repr, (None, *off)))
        raise ValueError(f"{name}: got {value!r}; accepted: {accepted} ({_advice(name)})")
