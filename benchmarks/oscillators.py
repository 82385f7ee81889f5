"""How fast the oscillators train here, next to the published algorithm on the same machine in the same run.

    python benchmarks/oscillators.py            everything, about three minutes
    python benchmarks/oscillators.py --ours     without the baseline, about half a minute

Steady times are medians of updates taken in turn, ours then the other's, so that a busy machine slows both.
"""

from hig.runs.cli import make_parser, silent_start
from timing import in_turn, print_start_and_memory, print_times, repeated, seconds, syevd

ROUNDS = 15
ADAM_UPDATES = 8           # of an epoch: 4096 samples in batches of 512
TRAINED_EPOCHS = 20        # after which many singular values are truncated; at the start few are


def main():
    """Measures and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--ours", action="store_true", help="leave the baseline out")
    baseline = not parser.parse_args().ours
    print_start_and_memory("Nonlinear_Oscillators", 22, "hig.HIG(1.0, 1e-6)", 128, epochs=5)

    with silent_start():
        import tensorflow as tf

        import hig
        import published
        from Nonlinear_Oscillators import experiment
    states = experiment.draw_data(22)[0]
    batch = tf.constant(states[:128])

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

    def update_and_eigh():
        """The update, and LAPACK's eigendecomposition of the K that it meets."""
        *_, jacobian = model.derivatives_for(batch, batch, None).linearise(batch, batch, None)
        return {"HIG update, batch 128": hig_step, **syevd(jacobian.gram())}

    model, hig_step = ours(hig.HIG(1.0, truncation=1e-6), 128)
    hig_step()
    functions = {**update_and_eigh(),
                 "Adam epoch, 8 updates of batch 512": ours("adam", 512, ADAM_UPDATES)[1]}
    if baseline:
        their_adam = theirs(published.adam_update, 512, 3e-4)
        functions |= {
            "published HIG update": theirs(published.jacobian_power_update, 128, -0.5, 1e-6, 1.0),
            "published Adam epoch": lambda: [their_adam() for _ in range(ADAM_UPDATES)]}
        print(f"published HIG, first update            {seconds(functions['published HIG update']):8.1f} s")
        print(f"published Adam, first update           {seconds(their_adam):8.1f} s")
    medians = in_turn(functions, ROUNDS)
    print_times(medians)
    update, *eigh, adam = list(medians.values())[:4]
    print(f"HIG update / faster eigh                   {update / min(eigh):8.2f}")
    if baseline:
        print(f"published HIG update / ours                {medians['published HIG update'] / update:8.1f}")
        print(f"published Adam epoch / ours                {medians['published Adam epoch'] / adam:8.1f}")
    history = model.fit(states, states, batch_size=128, epochs=TRAINED_EPOCHS, shuffle=False,
                        verbose=0).history
    update, *eigh = in_turn(update_and_eigh(), ROUNDS).values()
    print(f"after {TRAINED_EPOCHS} epochs, {history['rank'][-1]:.0f} of {batch.shape.num_elements()} "
          f"singular values kept: HIG update {1e3 * update:.1f} ms, {update / min(eigh):.2f} of the faster "
          "eigh")


if __name__ == "__main__":
    main()
