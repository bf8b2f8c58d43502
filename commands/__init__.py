"""What the command line does, and how it speaks to the terminal; the only package that knows both halves of mumo."""
