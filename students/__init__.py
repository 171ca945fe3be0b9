"""Floor 3: the students' architectures, the bank of students, export."""
