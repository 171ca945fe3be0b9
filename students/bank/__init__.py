"""Students of one shape trained as one: shared data and look-ups, parameters of their own."""

from __future__ import annotations

from students.bank.bank import Bank
from students.bank.days import DealtDay
from students.bank.members import Member
from students.bank.module import BankModule

__all__ = ["Bank", "BankModule", "DealtDay", "Member"]
