"""How fast the oscillators train here, next to the published algorithm on the same machine in the same run.

    python benchmarks/oscillators.py            everything, about three minutes
    python benchmarks/oscillators.py --ours     without the baseline, about half a minute

Steady times are medians of updates taken in turn, ours then the other's, so that a busy machine slows both.
"""

import argparse

from hig.runs.cli import silent_start, standard_streams
from timing import in_turn, peak_memory, repeated, seconds, start_up

FIRST_UPDATE = ("from Nonlinear_Oscillators.experiment import *; import hig; m = build_model(22); "
                "m.compile(optimizer=hig.HIG(1.0, truncation=1e-6), loss=loss); x = draw_data(22)[0][:128]; "
                "m.fit(x, x, batch_size=128, verbose=0)")
ROUNDS = 15
ADAM_UPDATES = 8           # of an epoch: 4096 samples in batches of 512
TRAINED_EPOCHS = 20        # after which many singular values are truncated; at the start few are


def main():
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="store_true", help="leave the baseline out")
    baseline = not parser.parse_args().ours

    print(f"HIG, process start to first update     {start_up(FIRST_UPDATE):8.1f} s")
    memory = peak_memory("Nonlinear_Oscillators/submit_HIG.py", "--epochs", "5")
    print(f"HIG, peak memory of a run              {memory:8.2f} GB")

    import scipy.linalg
    import threadpoolctl
    with silent_start():
        import tensorflow as tf

        import hig
        import published
        from Nonlinear_Oscillators import experiment
    states = experiment.draw_data(22)[0]

    def ours(optimizer, batch_size, updates=1):
        model = experiment.build_model(22)
        # as the experiment does
        model.compile(optimizer=optimizer, loss=experiment.loss, steps_per_execution=updates)
        return model, repeated(model, tf.constant(states[:batch_size]))

    def theirs(make, batch_size, *settings):
        model, batch = experiment.build_model(22), tf.constant(states[:batch_size])
        simulator = published.unrolled(model.simulator.step, model.simulator.n_steps)
        update = make(model.network, simulator, experiment.loss, *settings)
        return lambda: update(batch, batch)

    model, hig_step = ours(hig.HIG(1.0, truncation=1e-6), 128)
    hig_step()
    _, adam_epoch = ours("adam", 512, ADAM_UPDATES)
    batch = tf.constant(states[:128])
    one_thread = threadpoolctl.ThreadpoolController().wrap(limits=1)

    def eigh_of_gram():
        """LAPACK's eigendecomposition of the K that the next update meets."""
        *_, jacobian = model.derivatives_for(batch, batch, None).linearise(batch, batch, None)
        gram = jacobian.gram()
        return lambda: scipy.linalg.eigh(gram, driver="evd")

    eigh = eigh_of_gram()
    names = ["HIG update, batch 128", "LAPACK eigh (syevd) of its K, all threads",
             "LAPACK eigh (syevd) of its K, 1 thread", "Adam epoch, 8 updates of batch 512"]
    functions = [hig_step, eigh, one_thread(eigh), adam_epoch]
    if baseline:
        names += ["published HIG update", "published Adam epoch"]
        their_adam = theirs(published.adam_update, 512, 3e-4)
        functions += [theirs(published.jacobian_power_update, 128, -0.5, 1e-6, 1.0),
                      lambda: [their_adam() for _ in range(ADAM_UPDATES)]]
        print(f"published HIG, first update            {seconds(functions[4]):8.1f} s")
        print(f"published Adam, first update           {seconds(their_adam):8.1f} s")
    medians = in_turn(functions, ROUNDS)
    for name, median in zip(names, medians):
        print(f"{name:44} {1e3 * median:8.1f} ms")
    print(f"HIG update / faster eigh                   {medians[0] / min(medians[1:3]):8.2f}")
    if baseline:
        print(f"published HIG update / ours                {medians[4] / medians[0]:8.1f}")
        print(f"published Adam epoch / ours                {medians[5] / medians[3]:8.1f}")
    history = model.fit(states, states, batch_size=128, epochs=TRAINED_EPOCHS, shuffle=False,
                        verbose=0).history
    eigh = eigh_of_gram()
    trained = in_turn([hig_step, eigh, one_thread(eigh)], ROUNDS)
    print(f"after {TRAINED_EPOCHS} epochs, {history['rank'][-1]:.0f} of {batch.shape.num_elements()} "
          f"singular values kept: HIG update {1e3 * trained[0]:.1f} ms, {trained[0] / min(trained[1:]):.2f} "
          "of the faster eigh")


if __name__ == "__main__":
    standard_streams()
    main()
