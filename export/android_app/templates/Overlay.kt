package {{ package }}

import android.content.Context
{% if task == "segment" %}
import android.graphics.Bitmap
{% endif %}
import android.graphics.Canvas
import android.graphics.Color
import android.graphics.Paint
import android.graphics.RectF
import android.view.View
import kotlin.math.min

/** Draws the answers over a picture that stands in the centre of the view, as large as it fits. */
class Overlay(context: Context) : View(context) {
    private val density = resources.displayMetrics.density
    private val line = Paint().apply {
        style = Paint.Style.STROKE
        strokeWidth = 2 * density
    }
    private val text = Paint().apply {
        isAntiAlias = true
        color = Color.WHITE
        textSize = 16 * density
        setShadowLayer(3 * density, 0f, 0f, Color.BLACK)
    }
    private var scene: Scene? = null

    private class Scene(val answers: {{ answers }}, val part: Part, val width: Int, val height: Int)

    /** Shows the answers to a photograph of `width` x `height` pixels, of which the network was given `part`. */
    fun show(answers: {{ answers }}, part: Part, width: Int, height: Int) {
        scene = Scene(answers, part, width, height)
{% if task == "segment" %}
        mask.setPixels(IntArray(answers.classes.size) { colour(answers.classes[it], 128) }, 0, Answer.COLUMNS, 0, 0, Answer.COLUMNS, Answer.ROWS)
{% endif %}
        invalidate()
    }

    /** Shows nothing. */
    fun clear() {
        scene = null
        invalidate()
    }

    override fun onDraw(canvas: Canvas) {
        super.onDraw(canvas)
        val scene = scene ?: return
        val scale = min(width.toFloat() / scene.width, height.toFloat() / scene.height)
        val left = (width - scale * scene.width) / 2
        val top = (height - scale * scene.height) / 2
        fun placed(part: Part) = RectF(
            left + scale * part.left, top + scale * part.top,
            left + scale * (part.left + part.width), top + scale * (part.top + part.height)
        )
{% if task == "classify" or task == "outputs" %}
        line.color = Color.WHITE
        canvas.drawRect(placed(scene.part), line)
        val lines = scene.answers.map {
{% if task == "classify" %}
{% if shares %}
            "%.0f %% %s".format(100 * it.score, it.label)
{% else %}
            "%.2f %s".format(it.score, it.label) // logits, which have no unit
{% endif %}
{% else %}
            it.name + ": " + it.values.take(4).joinToString { value -> "%.3f".format(value) }
{% endif %}
        }
        lines.forEachIndexed { row, each ->
            canvas.drawText(each, left + 12 * density, top + (row + 1) * 24 * density, text)
        }
{% elif task == "detect" %}
        for (answer in scene.answers) {
            val box = placed(answer.box)
            line.color = colour(answer.index, 255)
            canvas.drawRect(box, line)
            canvas.drawText("%s %.0f %%".format(answer.label, 100 * answer.score), box.left, box.top - 4 * density, text)
        }
{% else %}
        canvas.drawBitmap(mask, null, placed(scene.part), null)
        val areas = scene.answers.classes.toList().groupingBy { it }.eachCount().toList().sortedByDescending { it.second }
        areas.take(5).forEachIndexed { row, (index, count) ->
            text.color = colour(index, 255)
            val share = 100f * count / scene.answers.classes.size
            canvas.drawText("%.0f %% %s".format(share, labels.getOrElse(index) { "class $index" }), left + 12 * density, top + (row + 1) * 24 * density, text)
        }
{% endif %}
    }
{% if task == "segment" %}

    /** The names of the classes. */
    var labels: List<String> = emptyList()
    private val mask = Bitmap.createBitmap(Answer.COLUMNS, Answer.ROWS, Bitmap.Config.ARGB_8888)
{% endif %}
{% if task in ("detect", "segment") %}

    /** A colour for each class, far from those of its neighbours. alpha: 0 to 255. */
    private fun colour(index: Int, alpha: Int): Int {
{% if task == "segment" %}
        if (index == 0) return if (alpha == 255) Color.WHITE else Color.TRANSPARENT // the first class is the background
{% endif %}
        return Color.HSVToColor(alpha, floatArrayOf(index * 137.5f % 360, 0.8f, 1f))
    }
{% endif %}
}
