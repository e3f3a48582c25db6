package {{ package }}

import kotlin.math.*

/**
 * From a photograph to the input of the network, equal to the Python code that evaluated the network:
 * {{ geometry }}.
 */
object Input {
    const val HEIGHT = {{ height }}
    const val WIDTH = {{ width }}
    const val CHANNELS = {{ channels }}

{% if input.dtype == "float32" %}
    /** The input for each value 0 to 255 of a pixel. */
    private val table = FloatArray(256) { (it - {{ mean|kotlin }}) / {{ std|kotlin }} }

    /** The input tensor of a photograph, HEIGHT x WIDTH x CHANNELS. */
    fun of(photo: Photo): FloatArray {
        val levels = levels(photo)
        return FloatArray(levels.size) { table[levels[it]] }
    }
{% else %}
    /** The input for each value 0 to 255 of a pixel{% if input.dtype == "uint8" %}: the same eight bits{% endif %}. */
{% if input.dtype == "uint8" %}
    private val table = ByteArray(256) { it.toByte() }
{% else %}
    private val table = ByteArray(256) {
        val value = (it - {{ mean|kotlin }}) / {{ std|kotlin }}
        (round(value / {{ input.scale|kotlin }}).toInt(){{ input.zero_point|plus }}).coerceIn(-128, 127).toByte()
    }
{% endif %}

    /** The input tensor of a photograph, HEIGHT x WIDTH x CHANNELS. */
    fun of(photo: Photo): ByteArray {
        val levels = levels(photo)
        return ByteArray(levels.size) { table[levels[it]] }
    }
{% endif %}

    /** The part of a photograph that the network is given. */
    fun part(width: Int, height: Int): Part {
{% if crop == "stretch" %}
        return Part(0f, 0f, width.toFloat(), height.toFloat())
{% elif crop == "crop_then_resize" %}
        val (left, top, wide, high) = box(width, height)
        return Part(left.toFloat(), top.toFloat(), wide.toFloat(), high.toFloat())
{% else %}
        val (left, top, wide, high) = box(width, height)
        val (across, down) = listOf(width.toFloat() / wide, height.toFloat() / high)
        return Part(left * across, top * down, WIDTH * across, HEIGHT * down)
{% endif %}
    }

    /** The values 0 to 255 of the resized photograph, HEIGHT x WIDTH x CHANNELS. */
    fun levels(photo: Photo): IntArray {
{% if crop == "stretch" %}
        val columns = Axis(photo.width, 0, photo.width, WIDTH, 0, WIDTH)
        val rows = Axis(photo.height, 0, photo.height, HEIGHT, 0, HEIGHT)
{% elif crop == "crop_then_resize" %}
        val (left, top, wide, high) = box(photo.width, photo.height)
        val columns = Axis(photo.width, left, wide, WIDTH, 0, WIDTH)
        val rows = Axis(photo.height, top, high, HEIGHT, 0, HEIGHT)
{% else %}
        val (left, top, wide, high) = box(photo.width, photo.height)
        val columns = Axis(photo.width, 0, photo.width, wide, left, WIDTH)
        val rows = Axis(photo.height, 0, photo.height, high, top, HEIGHT)
{% endif %}
{% if filter %}
        // As Pillow does: along the rows, rounded to eight bits, then along the columns.
        val (from, to) = listOf(rows.first[0], rows.last[HEIGHT - 1])
        val between = IntArray((to - from) * WIDTH * CHANNELS)
        for (row in from until to) for (column in 0 until WIDTH) for (channel in 0 until CHANNELS) {
            between[((row - from) * WIDTH + column) * CHANNELS + channel] =
                columns.sum(column) { value(photo.pixels[row * photo.width + it], channel) }
        }
        return IntArray(HEIGHT * WIDTH * CHANNELS) { place ->
            val rest = place % (WIDTH * CHANNELS)
            rows.sum(place / (WIDTH * CHANNELS)) { between[(it - from) * WIDTH * CHANNELS + rest] }
        }
{% elif interpolation == "nearest" %}
        return IntArray(HEIGHT * WIDTH * CHANNELS) {
            val pixel = it / CHANNELS
            val row = rows.nearest[pixel / WIDTH]
            value(photo.pixels[row * photo.width + columns.nearest[pixel % WIDTH]], it % CHANNELS)
        }
{% else %}
        return IntArray(HEIGHT * WIDTH * CHANNELS) {
            val (row, column, channel) = Triple(it / CHANNELS / WIDTH, it / CHANNELS % WIDTH, it % CHANNELS)
            val (upper, lower) = Pair(rows.first[row] * photo.width, rows.second[row] * photo.width)
            fun inColumn(x: Int) = between(
                value(photo.pixels[upper + x], channel).toFloat(),
                value(photo.pixels[lower + x], channel).toFloat(),
                rows.share[row]
            )
            round(between(inColumn(columns.first[column]), inColumn(columns.second[column]), columns.share[column])).toInt()
        }
{% endif %}
    }
{% if crop == "crop_then_resize" %}

    /** Left, top, width and height of the part that is cropped from the centre. */
    private fun box(width: Int, height: Int): List<Int> {
        val unit = min(width.toDouble() * {{ shorter }} / WIDTH, height.toDouble() * {{ shorter }} / HEIGHT)
        val side = max(1, ({{ share }} * unit).toInt())
        val wide = max(1, round(side.toDouble() * WIDTH / {{ shorter }}).toInt())
        val high = max(1, round(side.toDouble() * HEIGHT / {{ shorter }}).toInt())
        return listOf((width - wide + 1) / 2, (height - high + 1) / 2, wide, high)
    }
{% elif crop == "resize_then_crop" %}

    /** Left and top of the crop in the resized photograph, and the width and height of that. */
    private fun box(width: Int, height: Int): List<Int> {
        val scale = max({{ covered[1] }}.toDouble() / width, {{ covered[0] }}.toDouble() / height)
        val wide = max({{ covered[1] }}, (width * scale).toInt())
        val high = max({{ covered[0] }}, (height * scale).toInt())
        return listOf(round((wide - WIDTH) / 2.0).toInt(), round((high - HEIGHT) / 2.0).toInt(), wide, high)
    }
{% endif %}

{% if channels == 1 %}
    /** The grey value 0 to 255 of a pixel (ITU-R 601-2). */
    private fun value(pixel: Int, @Suppress("UNUSED_PARAMETER") channel: Int): Int {
        val (red, green, blue) = Triple(pixel shr 16 and 255, pixel shr 8 and 255, pixel and 255)
        return (19595 * red + 38470 * green + 7471 * blue + 32768) shr 16
    }
{% elif channels == 4 %}
    private val shifts = intArrayOf(16, 8, 0, 24)

    /** The red, green, blue or alpha of a pixel, 0 to 255. */
    private fun value(pixel: Int, channel: Int) = pixel shr shifts[channel] and 255
{% else %}
    /** The red, green or blue of a pixel, 0 to 255. */
    private fun value(pixel: Int, channel: Int) = pixel shr (16 - 8 * channel) and 255
{% endif %}
{% if interpolation == "keras_bilinear" %}

    private fun between(first: Float, second: Float, share: Float) = first + (second - first) * share
{% endif %}

{% if filter %}
    /**
     * The pixels along one side that each pixel of the result is made of, and their weights, as Pillow has them: the
     * part of a side of `length` pixels that begins at `begin` becomes `size` pixels, of which `count` from `skipped`
     * on are wanted.
     */
    private class Axis(length: Int, begin: Int, part: Int, size: Int, skipped: Int, count: Int) {
        private val scale = part.toDouble() / size
        private val stretch = max(1.0, scale)
        private val support = {{ support }} * stretch
        private val centres = DoubleArray(count) { begin + (it + skipped + 0.5) * scale }
        val first = IntArray(count) { max(0, (centres[it] - support + 0.5).toInt()) }
        val last = IntArray(count) { min(length, (centres[it] + support + 0.5).toInt()) }
        private val weights = Array(count) { place ->
            val real = DoubleArray(last[place] - first[place]) {
                weight((it + first[place] - centres[place] + 0.5) * (1 / stretch))
            }
            val sum = real.sum()
            IntArray(real.size) { (real[it] / sum * ONE).let { each -> if (each < 0) each - 0.5 else each + 0.5 }.toInt() }
        }

        /** The weighted sum for a pixel of the result, 0 to 255. */
        inline fun sum(place: Int, value: (Int) -> Int): Int {
            var sum = ONE / 2
            for (each in weights[place].indices) sum += value(first[place] + each) * weights[place][each]
            return (sum shr BITS).coerceIn(0, 255)
        }

        /** Pillow's filter "{{ filter }}" at a distance in pixels. */
        private fun weight(distance: Double): Double {
            val x = abs(distance)
{% if filter == "bilinear" %}
            return if (x < 1) 1 - x else 0.0
{% elif filter == "bicubic" %}
            return when {
                x < 1 -> (1.5 * x - 2.5) * x * x + 1
                x < 2 -> (((x - 5) * x + 8) * x - 4) * -0.5
                else -> 0.0
            }
{% else %}
            return if (x < 3) sinc(x) * sinc(x / 3) else 0.0
{% endif %}
        }
{% if filter == "lanczos" %}

        private fun sinc(x: Double) = if (x == 0.0) 1.0 else sin(x * PI) / (x * PI)
{% endif %}
    }

    private const val BITS = 22 // behind the binary point of a weight
    private const val ONE = 1 shl BITS
{% elif interpolation == "nearest" %}
    /**
     * The pixel along one side that each pixel of the result is: the part of a side that begins at `begin` becomes
     * `size` pixels, of which `count` from `skipped` on are wanted.
     */
    private class Axis(length: Int, begin: Int, part: Int, size: Int, skipped: Int, count: Int) {
        val nearest: IntArray

        init {
            val scale = part.toDouble() / size
            var place = begin + scale * 0.5
            repeat(skipped) { place += scale }
            nearest = IntArray(count) { max(0, place.toInt()).coerceAtMost(length - 1).also { place += scale } }
        }
    }
{% else %}
    /**
     * The two pixels along one side that each pixel of the result lies between, and how far it is from the first: the
     * part of a side that begins at `begin` becomes `size` pixels, of which `count` from `skipped` on are wanted.
     */
    private class Axis(@Suppress("UNUSED_PARAMETER") length: Int, begin: Int, part: Int, size: Int, skipped: Int, count: Int) {
        private val places = FloatArray(count) {
            ((it + skipped + 0.5f) * (part.toDouble() / size).toFloat() - 0.5f).coerceIn(0f, part - 1f)
        }
        val first = IntArray(count) { begin + places[it].toInt() }
        val second = IntArray(count) { begin + min(places[it].toInt() + 1, part - 1) }
        val share = FloatArray(count) { places[it] - places[it].toInt() }
    }
{% endif %}
}
