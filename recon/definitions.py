"""What the metrics' definitions and the untrained methods are called, and what each means: words alone, for tables and
files.

The same pair of images has many SSIMs, so a number carries the name of its definition and a table the sentence. They
are computed in ``recon.metrics``; whoever only shows numbers needs no torch.
"""

DEFINITIONS: dict[str, str] = {
    "paper": (
        "Per slice, as the public code of Liu et al. 2021: SSIM with a uniform 7x7 window, sample covariance, range 1, "
        "after scaling prediction and reference each to [0, 1] by its own minimum and maximum; pSNR in dB, not scaled, "
        "range = maximum - minimum of the reference slice; nRMSE = |prediction - reference| / |reference|, not scaled."
    ),
    "slice": (
        "Per slice, not scaled: SSIM with a uniform 7x7 window and sample covariance, pSNR in dB, both with range = "
        "maximum of the reference slice; nRMSE = |prediction - reference| / |reference|."
    ),
    "volume": (
        "Per slice, not scaled: SSIM with a uniform 7x7 window and sample covariance, pSNR in dB, both with range = "
        "maximum of the reference volume, so that a volume's mean SSIM is that of fastMRI's evaluation (whose PSNR is "
        "of the whole volume's error); nRMSE = |prediction - reference| / |reference|."
    ),
}
"""What each name means, in one sentence for tables and files."""

ZERO_FILLED, L1_WAVELET = "zero-filled", "l1-wavelet"
"""Methods that need no training: Aᴴ of the kept lines; sigpy's ℓ1-wavelet SENSE, its λ tuned on validation."""
