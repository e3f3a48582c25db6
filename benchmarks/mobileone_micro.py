"""Which widths could MobileOne-mu0, -mu1 and -mu2 have? A search, since we found none in print: its result is our fit.

    python benchmarks/mobileone_micro.py

The paper (arXiv 2206.04040) gives the micro networks' parameters and multiply-adds (0.57 M / 68 M, 0.98 M / 139 M,
1.3 M / 214 M), but we found their configurations neither in the text we had nor in Apple's code. Searched here are all
networks (stem, c1, c2, c3, c4) x depths whose parameters and multiply-adds both lie within 2 % of the printed values,
in inference form (a MobileOne convolution is one convolution with bias), at 224x224 with 1000 classes. That is the form
in which the paper counts S0-S4; the counter is first held against their exact figures. A published configuration,
should one turn up (in the paper's supplement, say), replaces the fit.

Plausible means: built by the rules that S0-S3 obey, so that the S networks' code makes it from four multipliers.
  1. The S networks' depths (2, 8, 10, 1), and their stem, min(64, c1). No squeeze-and-excite.
  2. Every width is a multiple of 8.
  3. The multipliers of (64, 128, 256, 512) do not fall from stage to stage (this implies rising widths).
  4. No width exceeds S0's, and none falls from mu0 to mu1 to mu2: one family.
A network's error is the larger relative error of its two values. Of the families that fit, the one chosen has the
smallest worst error; among equals (the worst is one network's, the others may vary) the smallest sum of the three
errors, then the first in ascending order of widths. Two values cannot determine four widths, so the fits under coarser,
fewer and other rules are counted as well, to show how far this is from a reconstruction.
"""

import itertools

import numpy as np

BASE = (64, 128, 256, 512)
DEPTHS = (2, 8, 10, 1)
S0 = (48, 128, 256, 1024)
TOLERANCE = 0.02

# Printed parameters and multiply-adds in millions, and the decimals printed.
PUBLISHED = {"mu0": ((0.57, 2), (68, 0)), "mu1": ((0.98, 2), (139, 0)), "mu2": ((1.3, 1), (214, 0))}

# Widths, blocks with squeeze-and-excite per stage, parameters, multiply-adds: counted from Apple's code.
KNOWN = {
    "S0": ((48, 128, 256, 1024), (0, 0, 0, 0), 2_078_504, 275_110_400),
    "S1": ((96, 192, 512, 1280), (0, 0, 0, 0), 4_764_840, 825_057_024),
    "S2": ((96, 256, 640, 2048), (0, 0, 0, 0), 7_808_168, 1_298_426_496),
    "S3": ((128, 320, 768, 2048), (0, 0, 0, 0), 10_078_312, 1_895_790_592),
    "S4": ((192, 448, 896, 2048), (0, 0, 5, 1), 14_838_352, 2_979_269_760),
}


def count(widths, depths=DEPTHS, stem=None, se=(0, 0, 0, 0), size=224, classes=1000):
    """Parameters and multiply-adds in inference form; widths and stem are numbers, or arrays of one shape."""
    c_in = np.minimum(64, widths[0]) if stem is None else stem
    size //= 2
    params, macs = 28 * c_in, 27 * c_in * size**2
    for c, n, n_se in zip(widths, depths, se, strict=True):
        size //= 2
        # Per block 3x3 depthwise and 1x1 pointwise, each with a bias; only the first of a stage sees c_in.
        params = params + 10 * c_in + (c_in + 1) * c + (n - 1) * (10 * c + (c + 1) * c)
        macs = macs + size**2 * (9 * c_in + c_in * c + (n - 1) * (9 * c + c * c))
        # The last n_se blocks have two units each, after the depthwise and after the pointwise convolution.
        units = [c] * (2 * n_se - (n_se == n)) + [c_in] * (n_se == n)
        for c_se in units:
            reduced = int(c_se * 0.0625)
            params, macs = params + (2 * c_se + 1) * reduced + c_se, macs + 2 * c_se * reduced
        c_in = c
    return params + (c_in + 1) * classes, macs + c_in * classes


def grid(limits, rising_multipliers=True):
    """All widths in multiples of 8 up to the limits as rows in ascending order, by rule 3 or just not falling."""
    rows = np.stack(np.meshgrid(*(np.arange(8, top + 1, 8) for top in limits), indexing="ij"), -1).reshape(-1, 4)
    return rows[(np.diff(rows / BASE if rising_multipliers else rows, axis=1) >= 0).all(1)]


def fits(name, rows, depths=DEPTHS, stem=None):
    """The rows within the tolerance of both printed values, best first, and their worse relative errors."""
    (params, _), (macs, _) = PUBLISHED[name]
    found = count(rows.T, depths, stem)
    error = np.maximum(abs(found[0] / (params * 1e6) - 1), abs(found[1] / (macs * 1e6) - 1))
    order = np.argsort(error, kind="stable")  # stable: equals stay in ascending order of widths
    order = order[error[order] <= TOLERANCE]
    return rows[order], error[order]


def families(found):
    """Worst errors of all families (rule 4) in a list of the three models' fits, with the three indices; best first."""
    (w0, e0), (w1, e1), (w2, e2) = found
    nested = (w0[:, None] <= w1[None]).all(-1)[:, :, None] & (w1[:, None] <= w2[None]).all(-1)[None]
    index = np.argwhere(nested)
    errors = np.max([e0[index[:, 0]], e1[index[:, 1]], e2[index[:, 2]]], axis=0)
    # The worst error belongs to one model; the others' sum settles what it leaves open, then the order of widths.
    keys = [w[index[:, k], c] for k, w in reversed(list(enumerate((w0, w1, w2)))) for c in (3, 2, 1, 0)]
    order = np.lexsort([*keys, e0[index[:, 0]] + e1[index[:, 1]] + e2[index[:, 2]], errors])
    return errors[order], index[order]


def describe(name, widths):
    """One line: widths, multipliers, exact counts, relative errors, and whether rounding gives the printed values."""
    params, macs = (int(value) for value in count(widths))
    (p, p_decimals), (m, m_decimals) = PUBLISHED[name]
    exact = round(params / 1e6, p_decimals) == p and round(macs / 1e6, m_decimals) == m
    multipliers = ", ".join(f"{c / base:g}" for c, base in zip(widths, BASE, strict=True))
    return (
        f"  {name}  stem {min(64, widths[0])}  {tuple(map(int, widths))} = ({multipliers})  "
        f"{params:,} params {params / p / 1e6 - 1:+.2%}  {macs:,} MACs {macs / m / 1e6 - 1:+.2%}"
        f"{'  rounds to print' if exact else ''}"
    )


def main():
    for name, (widths, se, params, macs) in KNOWN.items():
        if count(widths, se=se) != (params, macs):
            raise SystemExit(f"the counter is wrong on {name}: {count(widths, se=se)}, not {(params, macs)}")
    print("Counter: exact on S0, S1, S2, S3, S4.\n")

    rows = grid(S0)
    found = [fits(name, rows) for name in PUBLISHED]
    print(f"Fits of both values within {TOLERANCE:.0%}, rules 1-3 and at most S0's widths ({len(rows):,} candidates):")
    for name, (widths, _) in zip(PUBLISHED, found, strict=True):
        print(f"{name}: {len(widths)}")
        for row in widths[:5]:
            print(describe(name, row))
    errors, index = families(found)
    print(f"\nFamilies (rule 4): {len(errors):,}. Chosen, worst error {errors[0]:.2%}:")
    for name, (widths, _), k in zip(PUBLISHED, found, index[0], strict=True):
        print(describe(name, widths[k]))

    wide = grid(S0, rising_multipliers=False)
    print("\nOnly multipliers in coarser steps (fits of mu0, mu1, mu2; families; the best family):")
    for label, candidates, step in (("", rows, 16), ("", rows, 8), (" without rule 3", wide, 8)):
        coarse = [fits(name, candidates[(candidates * step % BASE == 0).all(1)]) for name in PUBLISHED]
        errors, index = families(coarse)
        print(f"steps of 1/{step}{label}: {[len(widths) for widths, _ in coarse]}; {len(errors)}")
        for best in index[:1]:
            for name, (widths, _), k in zip(PUBLISHED, coarse, best, strict=True):
                print(describe(name, widths[k]))

    print("\nHow loose the question is (fits of mu0, mu1, mu2):")
    print(f"  without rule 3: {[len(fits(name, wide)[0]) for name in PUBLISHED]}")
    free = [[len(fits(name, wide, stem=stem)[0]) for name in PUBLISHED] for stem in (8, 16, 24, 32, 48, 64)]
    print(f"  without rule 3, and the stem free among 8, 16, 24, 32, 48, 64: {np.sum(free, axis=0).tolist()}")
    # Shallower networks under rules 2-4, the same depths for all three. The last stage has one block in all S networks.
    shallower = []
    for depths in itertools.product(*(range(1, n + 1) for n in DEPTHS)):
        errors, _ = families([fits(name, rows, depths) for name in PUBLISHED])
        if len(errors):
            shallower.append((float(errors[0]), depths, len(errors)))
    total = int(np.prod(DEPTHS))
    print(
        f"  depths up to {DEPTHS} with a family that fits: {len(shallower)} of {total}; the best (worst error, number):"
    )
    for error, depths, number in sorted(shallower)[:5]:
        print(f"    {depths}: {error:.2%}, {number:,}")


if __name__ == "__main__":
    main()
