"""Benchmarks: every candidate against the PyTorch reference, in one run, drift beside speed.

    session.py      the whole run: plan -> workers -> drift gate -> rounds -> result
    harness.py      the gate and the rounds: candidates take turns, so noise hits all alike
    worker.py       one process a candidate, asleep while others run
    subjects.py     what is timed: the engine, the PyTorch reference, log-mel extractors
    scenarios/      SingleStream, Offline, LogMel: what one timed pass is
    cold_run.py     a fresh process, start to exit; install_size.py: bytes on disk
    result.py       the versioned JSON; targets.py, report.py and plots.py read it

Nothing here is imported by the engine; `asa-engine bench` imports it when it is run.
"""
