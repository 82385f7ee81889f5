"""Question: which settings suit each method on one cart pole, by the validation loss?

Each method has four trials with one seed. `study_peers.py` compares the methods on other seeds.
"""

from hig.runs.study import study

TRIALS = [
    *(("Adam", {"learning_rate": rate, "batch_size": b}) for rate in (1e-3, 3e-3) for b in (8, 32)),
    *(("Adam", {"learning_rate": rate, "clip_norm": clip}) for rate in (1e-3, 3e-3) for clip in (0.1, 1.0)),
    *(("HIG", {"learning_rate": rate, "truncation": cut}) for rate in (0.1, 0.3) for cut in (1e-5, 1e-3)),
    *(("GN", {"learning_rate": rate, "truncation": cut}) for rate in (0.1, 0.5) for cut in (1e-5, 1e-2)),
    *(("HIG_adaptive", {"truncation": cut, "batch_size": b}) for cut in (1e-5, 1e-3) for b in (32, 256)),
    *(("LM", {"damping": damping, "batch_size": b}) for damping in (0.1, 1.0) for b in (32, 256)),
]
SEEDS = (0,)
MAX_TIME = 30.0          # seconds of training of each run

if __name__ == "__main__":
    study("Cart_Pole", "settings", __doc__, TRIALS, seeds=SEEDS, max_time=MAX_TIME)
