"""How fast the quantum dipole trains here, next to LAPACK and to the published algorithm, in one run.

    python benchmarks/schroedinger.py            everything, about 6 minutes and 6 GB of memory
    python benchmarks/schroedinger.py --ours     without the baseline, about 2 minutes

Steady times are medians of updates taken in turn, so that a busy machine slows all of them. The baseline is
measured with several numbers of time steps, next to ours with as many. (The published program itself did not
finish its first epoch within half an hour, in 14 GB: its algorithm, written again in benchmarks/published.py,
is faster.)

Other ways to compute the time step were tried inside the same compiled loop. Compared with cyclic reduction,
elimination along the grid is a fifth faster for Adam and a fifth slower for HIG, but takes more than twice as
long to compile. Elimination with real pairs is slower for both, and elimination from both ends at once is
three times slower for HIG. A basis common to all controls is the fastest, by 40 % for Adam, but
ill-conditioned on wide boxes.
"""

from hig.runs.cli import make_parser, silent_start
from timing import in_turn, print_start_and_memory, print_times, repeated, seconds, syevd

ROUNDS = 15
ADAM_UPDATES = 4                       # of an epoch: 1024 samples in batches of 256
STEPS = (96, 384, 1536)
PUBLISHED_STEPS = (24, 96, 384)


def main():
    """Measures and prints the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--ours", action="store_true", help="leave the baseline out")
    baseline = not parser.parse_args().ours
    print_start_and_memory("Schroedinger", 1, "hig.HIG(0.5, 1e-5)", 16, epochs=2)

    with silent_start():
        import tensorflow as tf

        import hig
        import published
        from Schroedinger import experiment
        from Schroedinger.simulator import Dipole, to_pairs
    targets = experiment.draw_data(1)[0]
    batch = tf.constant(targets[:16])

    def ours(optimizer, batch_size, n_steps=experiment.N_STEPS, updates=1):
        """The model, and a function that takes so many updates of it."""
        model = experiment.build_model(1, Dipole(n_steps=n_steps))
        model.compile(optimizer=optimizer or hig.HIG(0.5, truncation=1e-5), loss=experiment.loss,
                      steps_per_execution=updates)
        return model, repeated(model, tf.constant(targets[:batch_size]))

    def derivatives(model):
        linearise = model.derivatives_for(batch, batch, None).linearise
        return lambda: linearise(batch, batch, None)

    # One update against one eigendecomposition
    model, hig_step = ours(None, 16)
    hig_step()
    without, _ = ours(None, 16)
    without.simulator = lambda x, controls, own=without.simulator: own(x, controls)  # hides its Jacobian
    medians = in_turn({
        "HIG update, batch 16": hig_step, "its derivatives": derivatives(model),
        "derivatives by the 28-fold repeated batch": derivatives(without),
        **syevd(derivatives(model)()[-1].gram()),
        "Adam epoch, 4 updates of batch 256": ours("adam", 256, updates=ADAM_UPDATES)[1]}, ROUNDS)
    print_times(medians)
    update, _, _, *eigh, _ = medians.values()
    print(f"HIG update / faster eigh                   {update / min(eigh):8.2f}", flush=True)

    # Cost per step
    runs = [(derivatives(ours(None, 16, n)[0]), ours("adam", 256, n)[1]) for n in STEPS]
    medians = in_turn([function for run in runs for function in run], 5)
    for n, of_hig, of_adam in zip(STEPS, medians[::2], medians[1::2]):
        print(f"{n:5} steps: derivatives for HIG {1e6 * of_hig / n:6.1f} µs a step, update of Adam "
              f"{1e6 * of_adam / n:6.1f} µs a step", flush=True)
    if not baseline:
        return

    def dense_step(dipole):
        """One Crank-Nicolson step by a dense solve per sample, in complex64 as published."""
        m = len(dipole.x)
        laplacian = (tf.linalg.diag([-2.0] * m) + tf.linalg.diag([1.0] * (m - 1), k=1)
                     + tf.linalg.diag([1.0] * (m - 1), k=-1))
        kinetic, x = -laplacian / dipole.dx**2, tf.constant(dipole.x, tf.float32)

        def step(psi, control):                                        # (B, m) complex64, (B, 1)
            half = dipole.dt / 2 * (kinetic + tf.linalg.diag(control * x))  # dt/2 H, (B, m, m)
            identity = tf.eye(m, batch_shape=[16])
            right = tf.linalg.matmul(tf.complex(identity, -half), psi[..., None])
            return tf.linalg.solve(tf.complex(identity, half), right)[..., 0]
        return step

    def theirs(n_steps):
        dipole = Dipole(n_steps=n_steps)
        model = experiment.build_model(1, dipole)
        propagate = published.unrolled(dense_step(dipole), n_steps)
        ground_state = tf.repeat(tf.constant(dipole.eigenstate(1)[None], tf.complex64), 16, axis=0)

        def simulator(x, controls):
            return to_pairs(propagate(ground_state, controls), tf.float32)

        update = published.jacobian_power_update(model.network, simulator, experiment.loss, -0.5, 1e-5, 0.5)
        return lambda: update(batch, batch)

    for n_steps in PUBLISHED_STEPS:
        update, (_, step) = theirs(n_steps), ours(None, 16, n_steps)
        tracing = seconds(update)
        published_update, our_update = in_turn([update, step], 3)
        print(f"{n_steps:5} steps: published update {published_update:7.2f} s (the first one {tracing:5.0f} "
              f"s), {published_update / our_update:6.0f} times ours", flush=True)


if __name__ == "__main__":
    main()
