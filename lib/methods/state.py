"""What a checkpoint holds of a method: its attributes that have a state, and the states of its generators."""

from ..rng import restore


class Stateful:
    """A method that names the attributes with a state in `checkpointed` and has its generators by name in `rngs`."""

    checkpointed = ("syn", "optimizer")

    def state_dict(self):
        return {
            **{name: getattr(self, name).state_dict() for name in self.checkpointed},
            "rng": {name: gen.get_state() for name, gen in self.rngs.items()},
        }

    def load_state_dict(self, state):
        for name in self.checkpointed:
            getattr(self, name).load_state_dict(state[name])
        for name, gen in self.rngs.items():
            restore(gen, state["rng"][name])
