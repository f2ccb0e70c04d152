"""The book's names: each is called as the book calls it, and trains as its loop does."""

import pytest
import torch
from torch import nn

import torchcnn
from torchcnn import d2l


def batches(n=120, size=50):
    """Images of 4 pixels in three classes; the last batch is smaller."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 2, 2, generator=generator)
    y = x.flatten(1).sum(1).long().clamp(1, 3).sub(1)
    return list(zip(x.split(size), y.split(size), strict=True))


def softmax_regression(w, b):
    def net(x):
        exp = torch.mm(x.view(-1, 4), w).add(b).exp()
        return exp / exp.sum(1, keepdim=True)

    return net


def cross_entropy(y_hat, y):
    return -torch.log(y_hat.gather(1, y.view(-1, 1)))


def test_parameters_are_trained_as_by_the_books_loop(capsys):
    """Softmax regression by hand: the sum of the losses, and a step of lr / batch_size."""
    first = torch.rand(4, 3), torch.zeros(3)
    ours, theirs = ([p.clone().requires_grad_() for p in first] for _ in range(2))
    d2l.train_ch3(softmax_regression(*ours), batches(), batches(), cross_entropy, 2, 50, ours, 0.1)
    net, expected = softmax_regression(*theirs), []
    for epoch in (1, 2):
        loss_sum = correct = 0
        for x, y in batches():
            y_hat = net(x)
            loss = cross_entropy(y_hat, y).sum()
            loss.backward()
            for p in theirs:
                p.data -= 0.1 * p.grad / 50
                p.grad.zero_()
            loss_sum += loss.item()
            correct += (y_hat.argmax(1) == y).sum().item()
        test = sum((net(x).argmax(1) == y).sum().item() for x, y in batches()) / 120
        expected.append(
            f"epoch {epoch}, loss {loss_sum / 120:.4f}, train acc {correct / 120:.3f}, "
            f"test acc {test:.3f}"
        )
    torch.testing.assert_close(ours, theirs)
    assert capsys.readouterr().out.splitlines() == expected


def test_a_module_is_trained_by_its_optimizer(capsys):
    nets = [nn.Sequential(d2l.FlattenLayer(), nn.Linear(4, 3)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    loss = nn.CrossEntropyLoss()
    ours, theirs = (torch.optim.SGD(net.parameters(), lr=0.5) for net in nets)
    d2l.train_ch3(nets[0], batches(), batches(), loss, 1, 50, None, None, ours)
    for x, y in batches():
        theirs.zero_grad()
        loss(nets[1](x), y).sum().backward()
        theirs.step()
    torch.testing.assert_close(nets[0].state_dict(), nets[1].state_dict())
    assert capsys.readouterr().out.startswith("epoch 1, loss 0.0")  # the mean, over 50 again


def test_a_function_is_told_whether_it_is_trained():
    """As the book's dropout by hand; with the mean as loss its rate is 100."""
    w, told = torch.rand(4, 3, requires_grad=True), []

    def net(x, is_training=True):
        told.append(is_training)
        return torch.mm(x.view(-1, 4), w)

    before = w.detach().clone()
    d2l.train_ch3(net, batches(), batches(), nn.CrossEntropyLoss(), 1, 50, [w], 100.0)
    assert told == [True] * 3 + [False] * 3 and not torch.equal(w, before)
    d2l.evaluate_accuracy(batches(), net)
    assert told[6:] == [False] * 3
    assert d2l.evaluate_accuracy([(torch.eye(3), torch.arange(3))], torch.relu) == 1


@pytest.fixture
def figure():
    before = dict(d2l.plt.rcParams)
    yield d2l.plt.gcf
    d2l.plt.close("all")
    d2l.plt.rcParams.update(before)


def test_what_the_book_draws(figure):
    d2l.use_svg_display()
    d2l.set_figsize((4, 3))
    assert tuple(d2l.plt.rcParams["figure.figsize"]) == (4, 3)
    d2l.semilogy(range(1, 4), [1, 10, 100], "epochs", "loss", range(1, 4), [3, 2, 1], ["a", "b"])
    (axes,) = figure().axes
    assert (axes.get_yscale(), axes.get_xlabel(), axes.get_ylabel()) == ("log", "epochs", "loss")
    assert [line.get_linestyle() for line in axes.lines] == ["-", ":"]
    assert [line.get_ydata().tolist() for line in axes.lines] == [[1, 10, 100], [3, 2, 1]]
    assert tuple(figure().get_size_inches()) == (3.5, 2.5)
    d2l.show_fashion_mnist(torch.rand(2, 1, 28, 28), d2l.get_fashion_mnist_labels([0, 9]))
    assert [axes.get_title() for axes in figure().axes] == ["t-shirt", "ankle boot"]


def test_it_hands_on_all_names_of_the_package():
    assert all(getattr(d2l, name) is getattr(torchcnn, name) for name in torchcnn.__all__)
