"""The user's function as a program: traced once, recognised when it comes again."""
