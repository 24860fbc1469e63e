import itertools

import pytest
import torch
from torch.testing import assert_close

EOS = 3


def _source(histories):
    return {name: histories[name] for name in ("states", "actions", "attention_mask")}


def _log_probability(model, encoded, row, symbols):
    inputs = torch.tensor([[model.config.bos_token_id, *symbols[:-1]]])
    one = type(encoded)(**{name: values[row : row + 1] for name, values in encoded.items()})
    scores = model(encoder_outputs=one, decoder_input_ids=inputs).logits.log_softmax(-1)[0]
    return scores[range(len(symbols)), list(symbols)].sum().item()


def test_greedy_takes_the_likeliest_symbol_and_stops_each_row_at_its_eos(model, histories):
    sequences = model.generate(**_source(histories), max_new_tokens=7)
    encoded = model.encode(**_source(histories))
    for row, written in enumerate(sequences.tolist()):
        prefix = [model.config.bos_token_id]
        while len(prefix) < 8 and prefix[-1] != EOS:
            one = type(encoded)(**{name: values[row : row + 1] for name, values in encoded.items()})
            logits = model(encoder_outputs=one, decoder_input_ids=torch.tensor([prefix])).logits
            prefix.append(logits[0, -1].argmax().item())
        padding = [model.config.pad_token_id] * (len(written) - len(prefix))
        assert written == prefix + padding


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 0}])
def test_cached_generation_equals_uncached(model, histories, options):
    torch.manual_seed(0)
    cached = model.generate(**_source(histories), max_new_tokens=6, **options)
    torch.manual_seed(0)
    assert_close(cached, model.generate(**_source(histories), max_new_tokens=6, use_cache=False, **options))


def test_free_running_evaluation_equals_greedy_generation(model, histories):
    predictions = model(**histories).predictions
    generated = model.generate(**_source(histories), max_new_tokens=6, eos_token_id=-1)[:, 1:]  # never stops
    assert predictions.tolist() == generated.tolist()


def test_beams_of_width_one_are_greedy(model, histories):
    greedy = model.generate(**_source(histories), max_new_tokens=6)
    assert_close(model.generate(**_source(histories), max_new_tokens=6, num_beams=1, length_penalty=2.0), greedy)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_wide_beams_find_what_brute_force_finds(backbone, histories, length_penalty, seed, make_model):
    model = make_model(backbone, seed=seed, state_size=2, action_size=2)
    eos, pad, bos = model.config.eos_token_id, model.config.pad_token_id, model.config.bos_token_id
    source = {name: values.clamp(max=1) for name, values in _source(histories).items()}
    longest = 3
    # 5 symbols: everything that ends with EOS within three tokens, and everything of three tokens that does not
    candidates = [
        symbols
        for length in range(1, longest + 1)
        for symbols in itertools.product(range(model.config.vocab_size), repeat=length)
        if eos not in symbols[:-1] and (symbols[-1] == eos or length == longest)
    ]
    encoded = model.encode(**source)
    beams = model.generate(
        **source,
        num_beams=model.config.vocab_size**2,
        max_new_tokens=longest,
        length_penalty=length_penalty,
        early_stopping="never",
    )
    for row in range(2):
        best = max(
            candidates,
            key=lambda symbols: _log_probability(model, encoded, row, symbols) / len(symbols) ** length_penalty,
        )
        assert beams[row].tolist() == [bos, *best] + [pad] * (beams.shape[1] - 1 - len(best))


def test_sampling_is_seeded_and_follows_the_probabilities(backbone, make_model):
    model = make_model(backbone)
    states = torch.tensor([[1]]).expand(4000, 1)
    torch.manual_seed(1)
    first = model.generate(states, do_sample=True, top_k=0, max_new_tokens=1)[:, 1]
    torch.manual_seed(1)
    assert_close(first, model.generate(states, do_sample=True, top_k=0, max_new_tokens=1)[:, 1])
    expected = model(states[:1]).logits[0, 0].softmax(-1)
    frequencies = torch.bincount(first, minlength=model.config.vocab_size) / 4000
    assert_close(frequencies.double(), expected, atol=0.035, rtol=0)  # more than four standard deviations


def test_generation_stops_at_the_configured_length_by_default(backbone, make_model):
    model = make_model(backbone, max_target_length=4)
    assert model.generate(torch.tensor([[0, 1]]), eos_token_id=-1).shape == (1, 5)


def test_vectors_are_written_and_fed_back(backbone, make_model):
    model = make_model(backbone, continuous_states=True, state_size=2, action_size=0, value_size=2)
    value, bos = model.config.value_token_id, model.config.bos_token_id
    states = torch.randn(2, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model.head.bias.data[value] += 100.0  # writes vectors and nothing else
    result = model.generate(states, max_new_tokens=3)
    assert result.sequences.tolist() == [[bos, value, value, value]] * 2
    assert result.value_preds.shape == (2, 3, 2)
    free = model(states, labels=result.sequences[:, 1:], target_values=torch.zeros(2, 3, 2))
    assert_close(free.value_preds, result.value_preds)
    fed_with_zeros = model(states, labels=result.sequences[:, 1:], target_values=torch.zeros(2, 3, 2),
                           teacher_forcing_ratio=1.0)  # fmt: skip
    assert not torch.allclose(fed_with_zeros.value_preds, result.value_preds)
    with pytest.raises(ValueError, match="num_beams=1"):
        model.generate(states, num_beams=2)
