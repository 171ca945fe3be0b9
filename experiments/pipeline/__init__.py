"""The main job: data, teacher, teacher log, students, scores; every step skips what is done already."""
