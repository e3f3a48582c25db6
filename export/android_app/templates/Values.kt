package {{ package }}

/** The real values of an output of eight bits: scale * (integer - zeroPoint). signed: int8; otherwise uint8. */
fun real(integers: ByteArray, scale: Float, zeroPoint: Int, signed: Boolean): FloatArray {
    val table = FloatArray(256) { scale * ((if (signed) it.toByte().toInt() else it) - zeroPoint) }
    return FloatArray(integers.size) { table[integers[it].toInt() and 255] }
}
