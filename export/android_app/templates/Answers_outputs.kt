package {{ package }}

/** The values of an output. */
class Answer(val name: String, val values: FloatArray)

/** What the network says of a photograph. labels: of the classes, for outputs that score classes. */
class Answers(@Suppress("unused") private val labels: List<String>) {
    /** The values of each output. outputs: as `Network.run` gives them. */
    fun of(outputs: List<FloatArray>, @Suppress("UNUSED_PARAMETER") part: Part): List<Answer> =
        NAMES.zip(outputs) { name, values -> Answer(name, values) }

    private companion object {
        val NAMES = listOf({% for output in outputs %}{{ output.name|kotlin_text }}{{ ", " if not loop.last }}{% endfor %})
    }
}
