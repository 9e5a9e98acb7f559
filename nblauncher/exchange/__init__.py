"""Files between the teacher and the students: material out (`send`), work back (`retrieve`), versions (`history`).

Root forks two children and passes bytes between them: one is the student, the other the teacher. Modules are named
after the process that runs them: `root_side`, `student_side`, `teacher_side`. `merge` is pure.

Run by: root, and children that are the student or the teacher.
May import: config, system.
"""
