"""Which operators of a graph of unknown origin are run: those that compute numbers from numbers, and nothing else.

A graph is data, but some of its operators are not: they call Python, read and write files, keep tables, print, or talk
to other machines. So there is a list of what may run, not of what may not: an operator that is in neither list, and an
operator of a later TensorFlow, is refused too.
"""

from collections.abc import Iterable

from mobilenets_tf.errors import RequestError

# What an operator may be for -> the names of the operators.
_COMPUTING = {
    "arithmetic, element by element": """
        Abs AccumulateNV2 Acos Acosh Add AddN AddV2 Asin Asinh Atan Atan2 Atanh BitwiseAnd BitwiseOr BitwiseXor Ceil
        ClipByValue Cos Cosh Div DivNoNan Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Inv Invert LeftShift Lgamma
        Log Log1p Maximum Minimum Mod Mul MulNoNan Neg Pow RealDiv Reciprocal RightShift Rint Round Rsqrt Sign Sin Sinh
        Sqrt Square SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy
    """,
    "activations": """
        Elu LeakyRelu LogSoftmax Relu Relu6 Selu Sigmoid Softmax Softplus Softsign
    """,
    "comparisons and choices": """
        ApproximateEqual Equal Greater GreaterEqual IsFinite IsInf IsNan Less LessEqual LogicalAnd LogicalNot LogicalOr
        NotEqual Select SelectV2 Where
    """,
    "reductions and orders": """
        All Any ArgMax ArgMin Bincount CombinedNonMaxSuppression Cumprod Cumsum EuclideanNorm L2Loss Max Mean Min
        NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 NonMaxSuppressionV5 Prod
        SegmentMax SegmentMean SegmentMin SegmentProd SegmentSum Sum TopK TopKV2 Unique UniqueV2 UnsortedSegmentMax
        UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum
    """,
    "matrices and spectra": """
        BatchMatMul BatchMatMulV2 BatchMatMulV3 Complex ComplexAbs Einsum FFT FFT2D IFFT IFFT2D IRFFT IRFFT2D Imag
        MatMul MatrixBandPart MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3
        MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 RFFT RFFT2D Real
    """,
    "layers": """
        AvgPool AvgPool3D BiasAdd BiasAddV1 Conv Conv2D Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D
        Conv3DBackpropInputV2 DepthwiseConv2dNative Dilation2D FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 LRN
        MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax _FusedBatchNormEx _FusedConv2D _FusedDepthwiseConv2dNative
        _FusedMatMul
    """,
    "images": """
        AdjustContrastv2 AdjustHue AdjustSaturation CropAndResize ExtractImagePatches HSVToRGB
        ImageProjectiveTransformV2 ImageProjectiveTransformV3 RGBToHSV ResizeArea ResizeBicubic ResizeBilinear
        ResizeNearestNeighbor ScaleAndTranslate
    """,
    "shapes, and values that move": """
        BatchToSpace BatchToSpaceND Bitcast BroadcastArgs BroadcastTo Cast Concat ConcatOffset ConcatV2 DepthToSpace
        Diag DiagPart DynamicPartition DynamicStitch EnsureShape ExpandDims Fill Gather GatherNd GatherV2
        InvertPermutation LinSpace MirrorPad OneHot OnesLike Pack Pad PadV2 ParallelConcat ParallelDynamicStitch Range
        Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd Shape ShapeN Size Slice SpaceToBatch
        SpaceToBatchND SpaceToDepth Split SplitV Squeeze StridedSlice TensorScatterAdd TensorScatterMax TensorScatterMin
        TensorScatterSub TensorScatterUpdate Tile Transpose Unpack UnravelIndex ZerosLike
    """,
    "values as they are": """
        CheckNumerics Const Identity IdentityN NoOp PlaceholderWithDefault PreventGradient Snapshot StopGradient
    """,
    "rounding as in training for integers": """
        FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantize
        QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4
    """,
    "variables, which are only read": """
        ReadVariableOp ResourceGather ResourceGatherNd VarHandleOp Variable VariableV2
    """,
    "branches, calls of the graph's own functions, and conditions that end a run": """
        Assert Case If Merge PartitionedCall RefMerge RefSwitch StatefulPartitionedCall StatelessCase StatelessIf Switch
    """,
}
_MAY_RUN = frozenset(name for names in _COMPUTING.values() for name in names.split())

_DENSE = "Export a signature whose operators only compute, and give that one with --signature (signature=)."
_WHY = {
    ("PyFunc", "PyFuncStateless", "EagerPyFunc"): (
        "calls Python of the program that made the model",
        "Write that function with TensorFlow's operators, and save the model again.",
    ),
    ("While", "StatelessWhile", "Enter", "RefEnter", "Exit", "NextIteration", "LoopCond"): (
        "runs a loop, as LSTM, GRU and tf.while_loop do",
        "Unroll the loop (LSTM(..., unroll=True) with a fixed number of steps), and save the model again.",
    ),
    ("DecodeJpeg", "DecodePng", "DecodeImage", "DecodeBmp", "DecodeGif", "DecodeRaw"): (
        "decodes an image file, and a phone's model takes pixels",
        _DENSE,
    ),
    ("LookupTableFindV2", "LookupTableFind", "HashTableV2", "HashTable", "LookupTableExportV2"): (
        "looks values up in a table, which TFLite's delegates do not",
        _DENSE,
    ),
}
_REASONS = {op: why for ops, why in _WHY.items() for op in ops}
_RANDOM = ("Random", "StatelessRandom", "Multinomial", "TruncatedNormal", "StatefulStandardNormal", "StatefulUniform")


def check_operators(nodes: Iterable, label: str) -> None:
    """Refuse a graph with an operator that does anything but compute numbers from numbers.

    Args:
        nodes: of the graph and of the functions that are called, as ``NodeDef``.
        label: the model's name, for the message.

    Raises:
        RequestError: names the operator and its node.
    """
    refused = {node.op: node for node in nodes if node.op not in _MAY_RUN}
    if not refused:
        return
    op, *others = sorted(refused, key=lambda op: (op not in _REASONS, op))
    why, remedy = "is not one that computes numbers from numbers alone, so it is not run", _DENSE
    if op in _REASONS:
        why, remedy = _REASONS[op]
    elif op.startswith(_RANDOM) or op.endswith("Dropout"):
        why, remedy = "draws random values", "Save the model for inference (training=False)."
    also = f" Refused too: {', '.join(others[:5])}." if others else ""
    raise RequestError(f"{label}: the operator {op} ({refused[op].name!r:.80}) {why}. {remedy}{also}")
