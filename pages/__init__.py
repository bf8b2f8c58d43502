"""What all HTML pages of mumo share: their frame, their style, their scripts, and how figures and tables are numbered.

Pages need no network: style, scripts and figures stand in the file, and a content security policy lets nothing else in.
"""
