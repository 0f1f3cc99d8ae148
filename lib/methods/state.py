"""What a checkpoint holds of a method: its named parts, and the states of its random numbers."""

from ..rng import restore


class Stateful:
    """A method whose `parts` name the attributes that have a state, beside its generators `rngs` by name."""

    parts = ("syn", "optimizer")

    def state_dict(self):
        return {
            **{name: getattr(self, name).state_dict() for name in self.parts},
            "rng": {name: gen.get_state() for name, gen in self.rngs.items()},
        }

    def load_state_dict(self, state):
        for name in self.parts:
            getattr(self, name).load_state_dict(state[name])
        for name, gen in self.rngs.items():
            restore(gen, state["rng"][name])
