"""XML Schema regular expressions (XSD part 2, appendix F) with the anchors of XPath (F&O 7.6.1).

A pattern becomes an automaton, never a backtracking matcher: the time to match is bounded by the
length of the text times the size of the pattern, and counted. Back-references are refused, since
no automaton has them. Reluctant quantifiers are read; they cannot change a yes or no.
"""
