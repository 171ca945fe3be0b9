"""The study of transfer: every channel on every student, with the controls that keep the claim honest."""
