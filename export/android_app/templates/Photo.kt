package {{ package }}

/** A photograph: a colour 0xAARRGGBB for each pixel, row by row. */
class Photo(val pixels: IntArray, val width: Int, val height: Int) {
    /** The photograph turned clockwise. degrees: 0, 90, 180 or 270, as `ImageInfo.rotationDegrees` gives them. */
    fun turned(degrees: Int): Photo = when (degrees) {
        0 -> this
        90 -> Photo(IntArray(pixels.size) { pixels[(height - 1 - it % height) * width + it / height] }, height, width)
        180 -> Photo(pixels.reversedArray(), width, height)
        270 -> Photo(IntArray(pixels.size) { pixels[it % height * width + width - 1 - it / height] }, height, width)
        else -> throw IllegalArgumentException("$degrees degrees: expected 0, 90, 180 or 270")
    }

    /** The photograph with left and right exchanged. */
    fun mirrored() = Photo(IntArray(pixels.size) { pixels[it - it % width + width - 1 - it % width] }, width, height)

    /** The photograph as it was seen. orientation: of its EXIF data, 1 to 8; any other number: as stored. */
    fun upright(orientation: Int): Photo {
        val photo = if (orientation in listOf(2, 4, 5, 7)) mirrored() else this
        return photo.turned(
            when (orientation) {
                3, 4 -> 180
                6, 7 -> 90
                5, 8 -> 270
                else -> 0
            }
        )
    }
}

/** A part of a photograph, in pixels. */
data class Part(val left: Float, val top: Float, val width: Float, val height: Float)
