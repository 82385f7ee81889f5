"""Chooses learning rates for the first-order optimizers that the paper names without settings.

    python benchmarks/learning_rates.py

Trains the oscillators with each of them for 300 epochs per learning rate, from the published start of Adam
(seed 1, batch 512), and prints the test losses; the submit scripts use the best of each row. Deterministic,
about six minutes.
"""

from hig.runs.cli import silent_start, standard_streams

EPOCHS = 300
RATES = {"SGD": (3e-3, 1e-2, 3e-2, 1e-1, 3e-1), "Adagrad": (1e-2, 3e-2, 1e-1, 3e-1, 1.0),
         "Adadelta": (1e-2, 1e-1, 1.0, 3.0, 10.0), "RMSprop": (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)}


def main():
    """Prints one row per optimizer."""
    with silent_start():
        import keras

        from hig.runs.experiments import fixed_batches, mean_losses
        from Nonlinear_Oscillators import experiment
    train, test = experiment.draw_data(1)
    batches, updates_per_epoch = fixed_batches((train, train), 512)
    for name, rates in RATES.items():
        print(f"{name:10}", end="")
        for rate in rates:
            model = experiment.build_model(1)
            model.compile(optimizer=getattr(keras.optimizers, name)(rate), loss=experiment.loss)
            model.fit(batches(0), steps_per_epoch=updates_per_epoch, epochs=EPOCHS, verbose=0)
            test_loss = mean_losses(model, (train, train), (test, test))(0, None)["test_loss"]
            print(f"   {rate:g}: {test_loss:.4f}", end="", flush=True)
        print()


if __name__ == "__main__":
    standard_streams()
    main()
