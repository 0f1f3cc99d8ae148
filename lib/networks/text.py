"""Networks on sentences: an "image" (1, L, D) of L word vectors.

Source: reference sheet of dataset distillation, section 11.2. Recurrent layers are written as matrix products: the
library's have no second derivative on a GPU, no forward derivative on a CPU, and cannot be batched over networks.
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


CELLS = {"rnn": (tanh_cell, 1, 1), "lstm": (lstm_cell, 4, 2)}  # (cell, number of gates, number of states)


class Recurrent(nn.Module):
    """Recurrent layers in one or two directions; (B, L, D) -> each direction's last state (B, directions * H).

    library: use the library's kernel, which is twice as fast and has first derivatives of one network only.
    """

    library = False

    def __init__(self, kind, inputs, hidden, layers=1, directions=1):
        super().__init__()
        self.kind = kind
        self.cell, gates, self.states = CELLS[kind]
        self.hidden, self.directions = hidden, directions
        widths = [inputs] + [hidden * directions] * (layers - 1)

        def maps(width):  # of one direction: from the layer's inputs, and from its own state, to the gates
            return nn.ModuleList([nn.Linear(width, gates * hidden), nn.Linear(hidden, gates * hidden)])

        self.layers = nn.ModuleList(nn.ModuleList(maps(width) for _ in range(directions)) for width in widths)

    def forward(self, x):
        if self.library:
            return self._library(x)
        for layer in self.layers:
            inputs = [x, x.flip(1)][: self.directions]
            gates = torch.stack([from_input(i) for (from_input, _), i in zip(layer, inputs)])  # (dirs, B, L, gates * H)
            weight = torch.stack([from_state.weight.T for _, from_state in layer])
            bias = torch.stack([from_state.bias for _, from_state in layer])
            gates = gates + bias[:, None, None]
            h = gates.new_zeros(self.directions, len(x), self.hidden)
            state, outputs = (h,) * self.states, []
            for t in range(x.shape[1]):
                h, state = self.cell(torch.baddbmm(gates[:, :, t], h, weight), state)
                outputs.append(h)
            x = torch.stack(outputs, 2)  # (directions, B, L, H), the second direction backwards in time
            x = torch.cat([x[0], x[1].flip(1)], -1) if self.directions == 2 else x[0]
        return h.movedim(0, 1).flatten(1)

    def _library(self, x):
        weights = []
        for from_input, from_state in (direction for layer in self.layers for direction in layer):
            weights += [from_input.weight, from_state.weight, from_input.bias, from_state.bias]
        zero = x.new_zeros(len(self.layers) * self.directions, len(x), self.hidden)
        # In training mode at all times: in the other cuDNN has no derivatives. Without dropout both are the same.
        run, state = (torch.lstm, (zero, zero)) if self.kind == "lstm" else (torch.rnn_tanh, zero)
        outputs = run(x, state, weights, True, len(self.layers), 0.0, True, self.directions == 2, True)[0]
        return torch.cat([outputs[:, -1, : self.hidden], outputs[:, 0, self.hidden :]], 1)


class Sentence(nn.Module):
    """(B, 1, L, D) -> (B, L, D)."""

    def forward(self, x):
        return x[:, 0]


class WordFilters(nn.Conv2d):
    """Filters of k whole words: one channel of k x D, as in the original: it decides the fan-out of initialisations."""

    def __init__(self, dim, k):
        super().__init__(1, FILTERS, (k, dim))

    def forward(self, x):
        """x (B, L, D) -> responses (B, F, L - k + 1) without the bias. D as channels is faster than D as width."""
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
        """The responses' maximum over time (B, F), recomputed at its position: only those words enter a derivative."""
        with torch.no_grad():
            first = filters(x).max(2).indices.T  # (F, B)
        count, length, _ = x.shape
        offsets = torch.arange(filters.kernel_size[0], device=x.device)
        words = (torch.arange(count, device=x.device) * length + first)[..., None] + offsets
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
    """TextLSTM1: a convolution along the vectors, with the words as channels; then an LSTM over its 16 filters."""
    width = (in_shape[2] - 4) // 4
    body = [nn.Conv1d(in_shape[1], 16, 5), nn.MaxPool1d(4), nn.ReLU(), Recurrent("lstm", width, 10)]
    return _text(body, in_shape, num_classes, law)
