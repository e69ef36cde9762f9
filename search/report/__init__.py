"""A study's report in the paper's form (Liu et al. 2021), with the uncertainty that one run cannot give.

Everything is made from a folder of results (``search.results.folder``) alone: ``compare`` calculates, ``tables`` and
``figures`` show, ``pictures`` shows images.
"""
