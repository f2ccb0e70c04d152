"""Which images train, which validate and which test."""

import torch

from torchcnn.data.split import hold_out, hold_out_at_random, is_for_test, mix_seed


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


def test_by_names_the_order_of_the_images_does_not_matter():
    names = [f"c/{i}.png" for i in range(50)]
    labels = torch.zeros(50, dtype=torch.int64)
    _, held_out = hold_out(labels, 0.2, 1, names)
    _, reversed_ = hold_out(labels, 0.2, 1, names[::-1])
    assert {names[i] for i in held_out} == {names[::-1][i] for i in reversed_}


def test_adding_pictures_moves_none_from_train_to_test():
    names = [f"class/{i}.png" for i in range(40)]
    before = dict(zip(names[:20], is_for_test(names[:20]), strict=True))
    assert 0 < sum(before.values()) < 20
    for n in range(21, 41):
        now = dict(zip(names[:n], is_for_test(names[:n]), strict=True))
        assert all(now[name] == test for name, test in before.items())


def test_a_class_is_always_in_both_parts():
    for i in range(300):
        for n in (2, 3, 5):
            chosen = is_for_test([f"{i}/{k}.png" for k in range(n)])
            assert 0 < sum(chosen) < n
    shares = [sum(is_for_test([f"{i}/{k}" for k in range(100)])) for i in range(50)]
    assert 18 < sum(shares) / 50 < 22  # a fifth of them


def test_runs_of_version_3_held_out_other_images():
    """As they did: a permutation of all, whose first tenth is held out."""
    order = torch.randperm(100, generator=torch.Generator().manual_seed(mix_seed(3)))
    train, held_out = hold_out_at_random(torch.zeros(100), 0.1, seed=3)
    assert held_out.tolist() == sorted(order[:10].tolist()) and len(train) == 90


def test_mix_seed_tells_its_arguments_apart():
    seeds = {mix_seed(a, b) for a in range(20) for b in range(20)}
    seeds |= {mix_seed(5), mix_seed(5, 0, 0), mix_seed(2**32 + 5), mix_seed(0, 2**32 + 5)}
    assert len(seeds) == 404 and all(0 <= seed < 2**64 for seed in seeds)
