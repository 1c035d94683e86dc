"""The judge of shims: from outside, with a decoder and an oracle of its own.

Must not know: how any shim decides; it imports neither ``dunnage.task`` nor what is
built on it, else it would forgive our own mistakes.
"""
