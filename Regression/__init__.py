"""Two small regressions on which others have compared half-inverse gradients with fourteen optimizers.

The flag that only this system has is defined here."""

import argparse

TASKS = ("toy_1d", "polynomial")


def flags(**polynomial):
    """Function that adds --task to the argparse parser of a submit script, and sets the published 20 epochs.

    Args:
        **polynomial: {name in the namespace: value}, defaults of the second task.
    """
    class Task(argparse.Action):
        """Stores the task, and sets what no flag has set: such a setting is still the parser's own object."""

        def __call__(self, parser, namespace, task, option_string=None):
            namespace.task = task
            for name, value in polynomial.items() if task == "polynomial" else ():
                if getattr(namespace, name) is parser.get_default(name):
                    setattr(namespace, name, value)

    def add(parser):
        own = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in polynomial.items())
        default = "default: toy_1d" + (f"; polynomial has the defaults {own}" if own else "")
        parser.add_argument("--task", choices=TASKS, action=Task, default=TASKS[0], help=default)
        parser.set_defaults(epochs=20)
    return add
