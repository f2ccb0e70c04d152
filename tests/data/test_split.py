"""Which images train, which validate and which test."""

import pytest
import torch

from torchcnn.data.split import hold_out, is_for_test, mix_seed


def counts(labels, indices):
    return labels[indices].bincount().tolist()


def test_each_class_is_held_out_by_its_share():
    """100, 30 and 10 images, a tenth of each."""
    labels = torch.tensor([0] * 100 + [1] * 30 + [2] * 10)[torch.randperm(140)]
    train, held_out = hold_out(labels, 0.1, seed=3)
    assert counts(labels, held_out) == [10, 3, 1] and counts(labels, train) == [90, 27, 9]
    assert sorted(train.tolist() + held_out.tolist()) == list(range(140))
    assert torch.equal(held_out, hold_out(labels, 0.1, seed=3)[1])
    assert not torch.equal(held_out, hold_out(labels, 0.1, seed=4)[1])


def test_no_class_is_lost_from_training():
    """60 pictures of one class and 2 of another: the rare one is in both parts; one trains."""
    labels = torch.tensor([0] * 60 + [1, 1] + [2])
    train, held_out = hold_out(labels, 0.1, seed=0)
    assert counts(labels, train) == [54, 1, 1] and counts(labels, held_out) == [6, 1]
    train, held_out = hold_out(labels, 0.99, seed=0)
    assert counts(labels, train) == [1, 1, 1]


def test_by_numbers_the_order_of_the_images_does_not_matter():
    ids, labels = torch.arange(50), torch.zeros(50, dtype=torch.int64)
    _, held_out = hold_out(labels, 0.2, 1, ids)
    _, reversed_ = hold_out(labels, 0.2, 1, ids.flip(0))
    assert len(held_out) == 10 and set(held_out.tolist()) == set((49 - reversed_).tolist())


def test_adding_pictures_moves_none_from_train_to_test():
    """But the last one of a class of which all fall to the test part: 0.2^2 of classes of two."""
    moved = {2: 0, 10: 0}
    for first in range(0, 100_000, 20):
        for n in moved:
            before, after = (is_for_test(range(first, first + k)) for k in (n, 20))
            moved[n] += any(now and not was for now, was in zip(after, before, strict=False))
    assert moved[2] / 5000 == pytest.approx(0.2**2, abs=0.008) and not moved[10]


def test_a_class_is_always_in_both_parts():
    for i in range(300):
        for n in (2, 3, 5):
            assert 0 < sum(is_for_test(range(10 * i, 10 * i + n))) < n
    shares = [sum(is_for_test(range(100 * i, 100 * i + 100))) for i in range(50)]
    assert 18 < sum(shares) / 50 < 22  # a fifth of them


def test_copies_are_in_one_part():
    """Three of each picture, all in its class; only if that has no other picture are they apart."""
    for seed in range(50):
        ids = torch.arange(20).repeat(3) + 100 * seed
        labels = torch.arange(60) % 2
        train, held_out = (set(ids[i].tolist()) for i in hold_out(labels, 0.1, seed, ids))
        assert train and held_out and not train & held_out
        chosen = is_for_test(ids.tolist())
        assert chosen[:20] == chosen[20:40] == chosen[40:] and 0 < sum(chosen) < 60
    assert is_for_test([7, 7, 7]) == [True, False, False]


def test_mix_seed_tells_its_arguments_apart():
    seeds = {mix_seed(a, b) for a in range(20) for b in range(20)}
    seeds |= {mix_seed(5), mix_seed(5, 0, 0), mix_seed(2**32 + 5), mix_seed(0, 2**32 + 5)}
    assert len(seeds) == 404 and all(0 <= seed < 2**64 for seed in seeds)
