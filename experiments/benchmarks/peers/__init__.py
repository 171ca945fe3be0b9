"""The students' training step beside other libraries' on the same work, and beside its own dense network alone.

    python -m experiments.benchmarks.peers.environments --folder ENVIRONMENTS
    python -m experiments.benchmarks.peers.prepare --data PREPARED --folder ROWS
    python -m experiments.benchmarks.peers --environments ENVIRONMENTS --rows ROWS [--save]

PREPARED is a prepared KuaiRand data set, such as an experiment leaves in its cache. Every library trains its own
model class by its own training step, in an environment of its own; ours trains as in an experiment (day
stream, student, Lightning). `work.py` says what is the same for all.
"""
