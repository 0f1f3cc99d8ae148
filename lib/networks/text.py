"""Networks on sentences: an "image" (1, L, D) of L word vectors.

Source: reference sheet of dataset distillation, section 11.2. Recurrent layers are written from matrix products, because the
library's have no second derivative on a GPU and no forward one on a CPU, and are not to be stacked over many networks.
"""

import torch
import torch.nn.functional as F
from torch import nn

from . import ARCHITECTURES
from .layers import LAWS, Network

HIDDEN, FILTERS = 100, 100


def tanh_cell(gates, state):
    h = gates.tanh()
    return h, (h,)


def lstm_cell(gates, state):
    i, f, g, o = gates.chunk(4, -1)
    cell = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
    h = o.sigmoid() * cell.tanh()
    return h, (h, cell)


CELLS = {"rnn": (tanh_cell, 1, 1), "lstm": (lstm_cell, 4, 2)}  # the step, its gates, its states


class Recurrent(nn.Module):
    """Layers of recurrent cells, in one direction or two; (B, L, D) -> the last layer's final state of each direction (B, directions * H).

    library: whether to run the library's own kernel, twice as fast, where one network's first derivatives are all that is wanted.
    """

    library = False

    def __init__(self, kind, inputs, hidden, layers=1, directions=1):
        super().__init__()
        self.kind = kind
        self.cell, gates, self.states = CELLS[kind]
        self.hidden, self.directions = hidden, directions
        widths = [inputs] + [hidden * directions] * (layers - 1)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                nn.ModuleList([nn.Linear(width, gates * hidden), nn.Linear(hidden, gates * hidden)])
                for _ in range(directions)
            )
            for width in widths
        )

    def forward(self, x):
        if self.library:
            return self._library(x)
        for layer in self.layers:
            inputs = [x, x.flip(1)][: self.directions]
            gates = torch.stack([own[0](i) for own, i in zip(layer, inputs)])  # (directions, B, L, gates * H)
            weight = torch.stack([own[1].weight.T for own in layer])
            bias = torch.stack([own[1].bias for own in layer])
            gates = gates + bias[:, None, None]
            h = gates.new_zeros(self.directions, len(x), self.hidden)
            state, outputs = (h,) * self.states, []
            for t in range(x.shape[1]):
                h, state = self.cell(torch.baddbmm(gates[:, :, t], h, weight), state)
                outputs.append(h)
            x = torch.stack(outputs, 2)  # (directions, B, L, H), the second backwards in time
            x = torch.cat([x[0], x[1].flip(1)], -1) if self.directions == 2 else x[0]
        return h.movedim(0, 1).flatten(1)

    def _library(self, x):
        weights = [
            t
            for layer in self.layers
            for own in layer
            for t in (own[0].weight, own[1].weight, own[0].bias, own[1].bias)
        ]
        zero = x.new_zeros(len(self.layers) * self.directions, len(x), self.hidden)
        run, state = (torch.lstm, (zero, zero)) if self.kind == "lstm" else (torch.rnn_tanh, zero)
        outputs = run(x, state, weights, True, len(self.layers), 0.0, self.training, self.directions == 2, True)[0]
        return torch.cat([outputs[:, -1, : self.hidden], outputs[:, 0, self.hidden :]], 1)


class Sentence(nn.Module):
    """(B, 1, L, D) -> (B, L, D)."""

    def forward(self, x):
        return x[:, 0]


class WordFilters(nn.Conv2d):
    """Filters of k whole words: one channel of k x D, as the original has it. Laws of initial weights count a filter's outputs by that shape."""

    def __init__(self, dim, k):
        super().__init__(1, FILTERS, (k, dim))

    def forward(self, x):
        """Responses (B, F, L - k + 1) without the bias, x (B, L, D); a vector's numbers as channels are quicker than as width."""
        return F.conv2d(x.transpose(1, 2)[:, :, None], self.weight.permute(0, 3, 1, 2))[:, :, 0]


class MaxOverTime(nn.Module):
    """Filters over 3, 4 and 5 words, the largest response of each, dropout."""

    def __init__(self, dim):
        super().__init__()
        self.filters = nn.ModuleList(WordFilters(dim, k) for k in (3, 4, 5))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):  # (B, L, D)
        return self.dropout(torch.cat([F.relu(self.largest(filters, x)) for filters in self.filters], 1))

    @staticmethod
    def largest(filters, x):
        """The responses' maximum over time (B, F). The words that have it are looked up first: they alone enter a derivative."""
        with torch.no_grad():
            first = filters(x).max(2).indices.T  # (F, B)
        count, length, _ = x.shape
        words = (torch.arange(count, device=x.device) * length + first)[..., None] + torch.arange(
            filters.kernel_size[0], device=x.device
        )
        windows = F.embedding(words, x.flatten(0, 1)).flatten(2)  # (F, B, k * D)
        return torch.linalg.vecdot(windows, filters.weight.flatten(1)[:, None]).T + filters.bias


def _text(body, in_shape, num_classes, law):
    return Network(nn.Sequential(Sentence(), *body), in_shape, num_classes, law, layout=torch.contiguous_format)


@ARCHITECTURES.register(scalable=False, text=True, options={"law": LAWS})
def textconv(in_shape, num_classes, law="xavier"):
    """TextConvNet1 (once called TextConvNet3): 120,601 weights for vectors of 100 and one output."""
    return _text([MaxOverTime(in_shape[2])], in_shape, num_classes, law)


@ARCHITECTURES.register(scalable=False, text=True, options={"law": LAWS})
def textrnn(in_shape, num_classes, law="xavier"):
    """TextRNN1: two layers of tanh cells in both directions."""
    return _text([Recurrent("rnn", in_shape[2], HIDDEN, 2, 2)], in_shape, num_classes, law)


@ARCHITECTURES.register(scalable=False, text=True, options={"law": LAWS})
def textlstm(in_shape, num_classes, law="xavier"):
    """TextLSTM2: two layers of LSTM cells in both directions."""
    return _text([Recurrent("lstm", in_shape[2], HIDDEN, 2, 2)], in_shape, num_classes, law)


@ARCHITECTURES.register(scalable=False, text=True, options={"law": LAWS})
def textconvlstm(in_shape, num_classes, law="xavier"):
    """TextLSTM1: words are the channels of a convolution along the vectors; then an LSTM over the 16 filters."""
    width = (in_shape[2] - 4) // 4
    body = [nn.Conv1d(in_shape[1], 16, 5), nn.MaxPool1d(4), nn.ReLU(), Recurrent("lstm", width, 10)]
    return _text(body, in_shape, num_classes, law)
