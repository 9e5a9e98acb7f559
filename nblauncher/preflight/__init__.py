"""What could keep a class from working, found before it starts. Looks, changes nothing.

Each check is a function of what it looks at: texts, answers of programs and facts come in, findings go out.
"""
