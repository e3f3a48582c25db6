package {{ package }}

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Test

/** What Python computed for a photograph, computed here: from pixels to the input, from outputs to answers. */
class ExpectedTest {
    private val photo = Photo(
        numbers("photo.bin").let { rgb ->
            IntArray(rgb.size / 3) { 255 shl 24 or (rgb[3 * it] shl 16) or (rgb[3 * it + 1] shl 8) or rgb[3 * it + 2] }
        },
        {{ photo.width }}, {{ photo.height }}
    )

    @Test
    fun theResizedPhotographIsPythons() = assertArrayEquals(numbers("levels.bin"), Input.levels(photo))

    @Test
    fun theInputIsPythons() {
        val grey = Photo(IntArray(256) { 255 shl 24 or it * 0x010101 }, 16, 16)
        val levels = Input.levels(grey)
        val input = Input.of(grey)
{% if input.dtype == "float32" %}
        val table = floats("table.bin")
        for (place in levels.indices) assertEquals(table[levels[place]], input[place], 0f)
{% else %}
        val table = bytes("table.bin")
        for (place in levels.indices) assertEquals(table[levels[place]], input[place])
{% endif %}
    }

    @Test
    fun theAnswersArePythons() {
        val outputs = listOf(
{% for output in outputs %}
{% if output.dtype == "float32" %}
            floats("output{{ loop.index0 }}.bin"){{ "," if not loop.last }}
{% else %}
            real(bytes("output{{ loop.index0 }}.bin"), {{ (output.scale or 1.0)|kotlin }}, {{ output.zero_point }}, signed = {{ "true" if output.dtype == "int8" else "false" }}){{ "," if not loop.last }}
{% endif %}
{% endfor %}
        )
        val labels = List({{ classes }}) { "class $it" }
{% if form == "raw" %}
        val anchors = floats("anchors.bin")
        val reading = Answers(labels, List(anchors.size / 4) { row -> FloatArray(4) { anchors[4 * row + it] } })
{% else %}
        val reading = Answers(labels)
{% endif %}
        val part = Input.part(photo.width, photo.height)
{% if task == "classify" %}
        val answers = reading.of(outputs, part, count = {{ [classes, 5]|min }})
        val expected = floats("answers.bin") // class and score in turn
        assertEquals(expected.size / 2, answers.size)
        answers.forEachIndexed { place, answer ->
            assertEquals(expected[2 * place].toInt(), answer.index)
            assertEquals(expected[2 * place + 1], answer.score, 1e-6f)
        }
{% elif task == "detect" %}
        val answers = reading.of(outputs, part, threshold = {{ threshold|kotlin }})
        val expected = floats("answers.bin") // class, score, top, left, bottom and right in turn
        assertEquals(expected.size / 6, answers.size)
        val order = compareByDescending<Answer> { it.score }.thenBy { it.index }.thenBy { it.box.top }.thenBy { it.box.left }
        answers.sortedWith(order).forEachIndexed { place, answer ->
            val box = answer.box
            val row = floatArrayOf(
                answer.index.toFloat(), answer.score, box.top, box.left, box.top + box.height, box.left + box.width
            )
            assertArrayEquals(expected.sliceArray(6 * place until 6 * place + 6), row, 1e-2f)
        }
{% elif task == "segment" %}
        assertArrayEquals(wholeNumbers("answers.bin"), reading.of(outputs, part).classes)
{% else %}
        assertEquals({{ outputs|length }}, reading.of(outputs, part).size)
{% endif %}
    }

    @Test
    fun aPhotographIsTurnedAsItsExifDataSay() {
        val stored = Photo(intArrayOf(1, 2, 3, 4, 5, 6), 3, 2) // 1 2 3 above 4 5 6
        val upright = mapOf(
            1 to "1 2 3 4 5 6", 2 to "3 2 1 6 5 4", 3 to "6 5 4 3 2 1", 4 to "4 5 6 1 2 3",
            5 to "1 4 2 5 3 6", 6 to "4 1 5 2 6 3", 7 to "6 3 5 2 4 1", 8 to "3 6 2 5 1 4"
        )
        for ((orientation, pixels) in upright) {
            val photo = stored.upright(orientation)
            assertEquals(pixels, photo.pixels.joinToString(" "))
            assertEquals(if (orientation < 5) 3 else 2, photo.width)
        }
    }

    private fun bytes(name: String) = javaClass.getResourceAsStream("/expected/$name")!!.use { it.readBytes() }

    private fun numbers(name: String) = bytes(name).let { all -> IntArray(all.size) { all[it].toInt() and 255 } }

{% if task == "segment" %}
    private fun wholeNumbers(name: String): IntArray {
        val buffer = java.nio.ByteBuffer.wrap(bytes(name)).order(java.nio.ByteOrder.LITTLE_ENDIAN)
        return IntArray(buffer.remaining() / 4) { buffer.getInt() }
    }

{% endif %}
    private fun floats(name: String): FloatArray {
        val buffer = java.nio.ByteBuffer.wrap(bytes(name)).order(java.nio.ByteOrder.LITTLE_ENDIAN)
        return FloatArray(buffer.remaining() / 4) { buffer.getFloat() }
    }
}
