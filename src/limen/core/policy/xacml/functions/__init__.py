"""The functions of core, appendix A.3, one module per family; `library` is the list of all."""
