"""The students' work on its way to the teacher. Root forks `student_side` and `teacher_side` and never reads a home."""
