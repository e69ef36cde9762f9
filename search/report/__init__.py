"""A study's report in the form of the paper (Liu et al. 2021), with uncertainties over seeds and volumes.

Everything is made from a folder of results (``search.results.folder``) alone: ``compare`` calculates, ``tables`` and
``figures`` show, ``pictures`` shows images.
"""
